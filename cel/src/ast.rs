//! The tree of an expression, after macros are expanded.

use crate::functions::Overload;
use crate::value::Value;

/// One expression and where it starts, in characters.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub at: usize,
    /// Levels of nodes below this one, itself included.
    pub depth: usize,
    pub expr: Expr,
}

#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Literal(Value),
    Ident(String),
    /// `operand.field`, `operand.?field`, or `has(operand.field)`.
    Select {
        operand: Box<Node>,
        field: String,
        how: Access,
    },
    Call(Box<Call>),
    /// All operands of a chain, so that long chains do not nest.
    And(Vec<Node>),
    Or(Vec<Node>),
    Ternary(Box<[Node; 3]>),
    /// Elements; `true` for `?element`.
    List(Vec<(bool, Node)>),
    Map(Vec<(bool, Node, Node)>),
    Struct(String, Vec<(bool, String, Node)>),
    Comprehension(Box<Comprehension>),
}

/// How a field is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Plain,
    Optional,
    Test,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub function: String,
    /// The receiver is the first argument of a member call.
    pub member: bool,
    pub args: Vec<Node>,
    /// What the checker found to fit; chosen among by the arguments' run-time types.
    pub overloads: Vec<&'static Overload>,
    /// The compiled pattern, where it is a literal.
    pub pattern: Option<regex::Regex>,
}

/// What the macros over lists, maps and optionals become.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    pub kind: Kind,
    pub range: Node,
    pub first: String,
    /// The second variable of the two-variable forms: the value, the first is then index or key.
    pub second: Option<String>,
    pub filter: Option<Node>,
    pub body: Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    Exists,
    ExistsOne,
    /// `map` and `transformList`.
    List,
    Filter,
    /// `transformMap`: the key stays, the body is the value.
    Map,
    /// `transformMapEntry`: the body is a map whose entries are taken.
    Entries,
    SortBy,
    OptMap,
    OptFlatMap,
}

impl Node {
    pub fn new(at: usize, expr: Expr) -> Self {
        let depth = 1 + expr.deepest_child();
        Self { at, depth, expr }
    }

    /// `a.b.c` when this is nothing but names.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.expr {
            Expr::Ident(name) => Some(name.clone()),
            Expr::Select { operand, field, how: Access::Plain } => {
                Some(format!("{}.{field}", operand.qualified_name()?))
            }
            _ => None,
        }
    }

    /// The first name of [`Self::qualified_name`].
    pub fn root(&self) -> Option<&str> {
        match &self.expr {
            Expr::Ident(name) => Some(name),
            Expr::Select { operand, .. } => operand.root(),
            _ => None,
        }
    }
}

impl Expr {
    pub fn call(function: &str, member: bool, args: Vec<Node>) -> Self {
        let call = Call { function: function.to_owned(), member, args, overloads: Vec::new(), pattern: None };
        Self::Call(Box::new(call))
    }

    fn deepest_child(&self) -> usize {
        let deepest = |nodes: &mut dyn Iterator<Item = &Node>| nodes.map(|node| node.depth).max().unwrap_or(0);
        match self {
            Self::Literal(_) | Self::Ident(_) => 0,
            Self::Select { operand, .. } => operand.depth,
            Self::Call(call) => deepest(&mut call.args.iter()),
            Self::And(parts) | Self::Or(parts) => deepest(&mut parts.iter()),
            Self::Ternary(parts) => deepest(&mut parts.iter()),
            Self::List(items) => deepest(&mut items.iter().map(|(_, node)| node)),
            Self::Map(entries) => deepest(&mut entries.iter().flat_map(|(_, key, value)| [key, value])),
            Self::Struct(_, fields) => deepest(&mut fields.iter().map(|(_, _, node)| node)),
            Self::Comprehension(c) => deepest(&mut [&c.range, &c.body].into_iter().chain(c.filter.iter())),
        }
    }
}
