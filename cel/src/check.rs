//! The checker: names, overloads and types of a tree, in cel-go's words. It also settles which dotted names are
//! functions or types, and which overloads a call may have at run time.

use crate::ast::{Access, Call, Comprehension, Expr, Kind, Node};
use crate::environment::Environment;
use crate::error::Issue;
use crate::functions::{self, Overload};
use crate::types::{Type, Unifier};
use crate::value::Value;

/// More findings than this are not shown (cel-go's default).
const MOST_ISSUES: usize = 100;

pub(crate) struct Checker<'a> {
    environment: &'a Environment,
    unifier: Unifier,
    /// Variables of comprehensions, innermost last.
    locals: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

/// Checks a tree and settles its names; gives the type of the whole.
pub(crate) fn check(node: &mut Node, environment: &Environment) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker { environment, unifier: Unifier::default(), locals: Vec::new(), issues: Vec::new() };
    let of = checker.node(node);
    if checker.issues.is_empty() { Ok(checker.unifier.resolve(&of, true)) } else { Err(checker.issues) }
}

impl Checker<'_> {
    fn issue(&mut self, offset: usize, message: String) -> Type {
        let issue = Issue { offset, message };
        if self.issues.len() < MOST_ISSUES && !self.issues.contains(&issue) {
            self.issues.push(issue);
        }
        Type::Dyn
    }

    fn show(&self, of: &Type) -> String {
        self.unifier.resolve(of, true).to_string()
    }

    fn local(&self, name: &str) -> Option<&Type> {
        self.locals.iter().rev().find(|(other, _)| other == name).map(|(_, of)| of)
    }

    fn node(&mut self, node: &mut Node) -> Type {
        let at = node.at;
        if let Some(replaced) = self.type_name(node) {
            node.expr = Expr::Literal(replaced);
            return Type::Type;
        }
        if let Some(name) = self.dotted_variable(node) {
            node.expr = Expr::Ident(name);
        }
        match &mut node.expr {
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => {
                let found = self.local(name).or_else(|| self.environment.type_of(name)).cloned();
                found.unwrap_or_else(|| self.issue(at, format!("undeclared reference to '{name}' (in container '')")))
            }
            Expr::Select { operand, field, how } => {
                let of = self.node(operand);
                let (field, how) = (field.clone(), *how);
                self.select(at, &of, &field, how)
            }
            Expr::Call(call) => self.call(at, call),
            Expr::And(parts) => self.logic(parts, "_&&_"),
            Expr::Or(parts) => self.logic(parts, "_||_"),
            Expr::Ternary(parts) => self.ternary(at, parts),
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Struct(name, fields) => self.object(at, name, fields),
            Expr::Comprehension(comprehension) => self.comprehension(at, comprehension),
        }
    }

    /// A variable whose declared name has a dot: `authorizer.requestResource`.
    fn dotted_variable(&self, node: &Node) -> Option<String> {
        let Expr::Select { .. } = node.expr else { return None };
        let name = node.qualified_name()?;
        let hidden = node.root().is_some_and(|root| self.local(root).is_some());
        (!hidden && self.environment.type_of(&name).is_some()).then_some(name)
    }

    /// The type that a name stands for, when no variable has that name.
    fn type_name(&self, node: &Node) -> Option<Value> {
        let root = node.root()?;
        if self.local(root).is_some() || self.environment.type_of(root).is_some() {
            return None;
        }
        let name = node.qualified_name()?;
        let known = [
            "int",
            "uint",
            "double",
            "bool",
            "string",
            "bytes",
            "list",
            "map",
            "null_type",
            "type",
            "dyn",
            "optional_type",
            "google.protobuf.Timestamp",
            "google.protobuf.Duration",
            "kubernetes.URL",
            "net.IP",
            "net.CIDR",
            "kubernetes.Quantity",
            "kubernetes.Semver",
        ];
        known.contains(&name.as_str()).then(|| Value::Type(name.as_str().into()))
    }

    fn select(&mut self, at: usize, of: &Type, field: &str, how: Access) -> Type {
        let of = self.unifier.resolve(of, false);
        let (of, was_optional) = match of {
            Type::Optional(inner) => (self.unifier.resolve(&inner, false), true),
            other => (other, false),
        };
        let found = match &of {
            Type::Dyn | Type::Var(_) => Type::Dyn,
            Type::Map(key, value) => {
                if !self.unifier.fits(key, &Type::String) {
                    let shown = self.show(&of);
                    return self.issue(at, format!("type '{shown}' does not support field selection"));
                }
                (**value).clone()
            }
            Type::Object(name) => match self.environment.field(name, field) {
                Some(found) => found,
                None => return self.issue(at, format!("undefined field '{field}'")),
            },
            other => {
                let shown = self.show(other);
                return self.issue(at, format!("type '{shown}' does not support field selection"));
            }
        };
        match how {
            Access::Test => Type::Bool,
            Access::Optional => Type::optional(found),
            Access::Plain if was_optional => Type::optional(found),
            Access::Plain => found,
        }
    }

    fn logic(&mut self, parts: &mut [Node], function: &str) -> Type {
        for part in parts.iter_mut() {
            let of = self.node(part);
            if !self.unifier.fits(&Type::Bool, &of) {
                let shown = self.show(&of);
                let message = format!("found no matching overload for '{function}' applied to '(bool, {shown})'");
                self.issue(part.at, message);
            }
        }
        Type::Bool
    }

    fn ternary(&mut self, at: usize, parts: &mut [Node; 3]) -> Type {
        let [condition, then, otherwise] = parts;
        let (c, a, b) = (self.node(condition), self.node(then), self.node(otherwise));
        if !self.unifier.fits(&Type::Bool, &c) || !self.unifier.fits(&a, &b) {
            let (c, a, b) = (self.show(&c), self.show(&a), self.show(&b));
            return self.issue(at, format!("found no matching overload for '_?_:_' applied to '({c}, {a}, {b})'"));
        }
        self.more_general(a, b)
    }

    /// Of two types that fit each other, `dyn` where one is.
    fn more_general(&self, a: Type, b: Type) -> Type {
        if self.unifier.resolve(&a, false) == Type::Dyn { a } else { b_unless_null(a, b) }
    }

    fn list(&mut self, items: &mut [(bool, Node)]) -> Type {
        let mut element: Option<Type> = None;
        for (optional, item) in items {
            let of = self.node(item);
            let of = if *optional { self.unwrapped(item.at, of) } else { of };
            element = Some(self.join(item.at, element, of));
        }
        Type::list(element.unwrap_or_else(|| self.unifier.fresh()))
    }

    fn map(&mut self, entries: &mut [(bool, Node, Node)]) -> Type {
        let (mut keys, mut values) = (None, None);
        for (optional, key, value) in entries {
            let of = self.node(key);
            keys = Some(self.join(key.at, keys, of));
            let of = self.node(value);
            let of = if *optional { self.unwrapped(value.at, of) } else { of };
            values = Some(self.join(value.at, values, of));
        }
        let key = keys.unwrap_or_else(|| self.unifier.fresh());
        let value = values.unwrap_or_else(|| self.unifier.fresh());
        Type::Map(Box::new(key), Box::new(value))
    }

    /// The type of one more element; all elements have one type.
    fn join(&mut self, at: usize, known: Option<Type>, of: Type) -> Type {
        let Some(known) = known else { return of };
        if self.unifier.fits(&known, &of) {
            return self.more_general(known, of);
        }
        let (wanted, found) = (self.show(&known), self.show(&of));
        self.issue(at, format!("expected type '{wanted}' but found '{found}'"));
        known
    }

    /// What an optional element holds.
    fn unwrapped(&mut self, at: usize, of: Type) -> Type {
        match self.unifier.resolve(&of, false) {
            Type::Optional(inner) => *inner,
            Type::Dyn => Type::Dyn,
            other => {
                let shown = self.show(&other);
                self.issue(at, format!("expected type 'optional_type({shown})' but found '{shown}'"))
            }
        }
    }

    fn object(&mut self, at: usize, name: &str, fields: &mut [(bool, String, Node)]) -> Type {
        if !self.environment.constructible(name) {
            for (_, _, value) in fields.iter_mut() {
                self.node(value);
            }
            return self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        for (optional, field, value) in fields {
            let of = self.node(value);
            let of = if *optional { self.unwrapped(value.at, of) } else { of };
            match self.environment.field(name, field) {
                None => {
                    self.issue(value.at, format!("undefined field '{field}'"));
                }
                Some(wanted) if !self.unifier.fits(&wanted, &of) => {
                    let (wanted, found) = (self.show(&wanted), self.show(&of));
                    let message =
                        format!("expected type of field '{field}' is '{wanted}' but provided type is '{found}'");
                    self.issue(value.at, message);
                }
                Some(_) => {}
            }
        }
        Type::object(name)
    }

    fn call(&mut self, at: usize, call: &mut Call) -> Type {
        self.qualify(call);
        let args: Vec<Type> = call.args.iter_mut().map(|arg| self.node(arg)).collect();
        let candidates: Vec<&'static Overload> =
            if self.environment.has_function(&call.function) { functions::named(&call.function) } else { Vec::new() };
        if candidates.is_empty() {
            let message = format!("undeclared reference to '{}' (in container '')", call.function);
            return self.issue(at, message);
        }
        let mut result: Option<Type> = None;
        for overload in candidates {
            if overload.member != call.member || overload.args.len() != args.len() {
                continue;
            }
            let mut signature = overload.args.clone();
            signature.push(overload.result.clone());
            let before = self.unifier.clone();
            let mut types = self.unifier.instantiate(&signature);
            let Some(of) = types.pop() else { continue };
            if !types.iter().zip(&args).all(|(wanted, given)| self.unifier.fits(wanted, given)) {
                self.unifier = before;
                continue;
            }
            call.overloads.push(overload);
            let of = self.unifier.resolve(&of, false);
            result = Some(match result {
                None => of,
                Some(known) if known == of => known,
                Some(_) => Type::Dyn,
            });
        }
        self.pattern(call);
        result.unwrap_or_else(|| {
            let shown: Vec<String> = args.iter().map(|of| self.show(of)).collect();
            let applied = match (call.member, shown.split_first()) {
                (true, Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            let message = format!("found no matching overload for '{}' applied to '{applied}'", call.function);
            self.issue(at, message)
        })
    }

    /// `optional.of(x)` is a call of a function with a dotted name, not of a member of a variable.
    fn qualify(&self, call: &mut Call) {
        if !call.member {
            return;
        }
        let Some(target) = call.args.first() else { return };
        let (Some(prefix), Some(root)) = (target.qualified_name(), target.root()) else { return };
        let name = format!("{prefix}.{}", call.function);
        if self.local(root).is_none() && !functions::named(&name).is_empty() {
            call.args.remove(0);
            call.function = name;
            call.member = false;
        }
    }

    /// Literal patterns are compiled once, and refused here when they are none; so are literal times.
    fn pattern(&mut self, call: &mut Call) {
        let literal = |index: usize| match call.args.get(index).map(|node| (&node.expr, node.at)) {
            Some((Expr::Literal(Value::String(text)), at)) => Some((text.clone(), at)),
            _ => None,
        };
        match call.function.as_str() {
            "matches" | "find" | "findAll" => {
                let Some((text, at)) = literal(1) else { return };
                match functions::regex::compile(&text) {
                    Ok(pattern) => call.pattern = Some(pattern),
                    Err(_) => {
                        self.issue(at, format!("invalid {} argument", call.function));
                    }
                }
            }
            "duration" | "timestamp" => {
                let Some((text, at)) = literal(0) else { return };
                let valid = if call.function == "duration" {
                    functions::time::parse_duration(&text).is_some()
                } else {
                    functions::time::parse_timestamp(&text).is_some()
                };
                if !valid {
                    self.issue(at, format!("invalid {} argument", call.function));
                }
            }
            _ => {}
        }
    }

    fn comprehension(&mut self, at: usize, c: &mut Comprehension) -> Type {
        let range = self.node(&mut c.range);
        let range = self.unifier.resolve(&range, false);
        let (key, value) = match (&range, c.kind) {
            (Type::Optional(inner), Kind::OptMap | Kind::OptFlatMap) => (Type::Int, (**inner).clone()),
            (Type::Dyn | Type::Var(_), _) => (Type::Dyn, Type::Dyn),
            (_, Kind::OptMap | Kind::OptFlatMap) => {
                let (name, shown) = (opt_name(c.kind), self.show(&range));
                return self.issue(at, format!("found no matching overload for '{name}' applied to '{shown}.()'"));
            }
            (Type::List(element), _) => (Type::Int, (**element).clone()),
            (Type::Map(key, value), _) => ((**key).clone(), (**value).clone()),
            (other, _) => {
                let shown = self.show(other);
                let message = format!(
                    "expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.issue(c.range.at, message);
            }
        };
        let over_map = matches!(range, Type::Map(..));
        let depth = self.locals.len();
        match &c.second {
            Some(second) => {
                self.locals.push((c.first.clone(), key.clone()));
                self.locals.push((second.clone(), value.clone()));
            }
            None => self.locals.push((c.first.clone(), if over_map { key.clone() } else { value.clone() })),
        }
        if let Some(filter) = &mut c.filter {
            let of = self.node(filter);
            self.wants_bool(filter.at, &of);
        }
        let body = self.node(&mut c.body);
        self.locals.truncate(depth);
        match c.kind {
            Kind::All | Kind::Exists | Kind::ExistsOne => {
                self.wants_bool(c.body.at, &body);
                Type::Bool
            }
            Kind::Filter => {
                self.wants_bool(c.body.at, &body);
                Type::list(if over_map { key } else { value })
            }
            Kind::List => Type::list(body),
            Kind::SortBy => range,
            Kind::Map => Type::Map(Box::new(key), Box::new(body)),
            Kind::Entries => body,
            Kind::OptMap => Type::optional(body),
            Kind::OptFlatMap => body,
        }
    }

    fn wants_bool(&mut self, at: usize, of: &Type) {
        if !self.unifier.fits(&Type::Bool, of) {
            let shown = self.show(of);
            self.issue(at, format!("expected type 'bool' but found '{shown}'"));
        }
    }
}

fn b_unless_null(a: Type, b: Type) -> Type {
    if b == Type::Null { a } else { b }
}

fn opt_name(kind: Kind) -> &'static str {
    if kind == Kind::OptMap { "optMap" } else { "optFlatMap" }
}

fn literal(value: &Value) -> Type {
    match value {
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        Value::Null => Type::Null,
        _ => Type::Type,
    }
}
