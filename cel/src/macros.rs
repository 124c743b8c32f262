//! What is a macro rather than a function, and what it becomes. Names are cel-go's: its standard macros, the
//! two-variable comprehensions, `optMap` and `optFlatMap`, `sortBy`.

use crate::ast::{Access, Comprehension, Expr, Kind, Node};
use crate::error::CompileError;
use crate::parser::Parser;

/// A call `name(args)` at `at`.
pub(crate) fn global(parser: &Parser<'_>, at: usize, name: &str, mut args: Vec<Node>) -> Result<Node, CompileError> {
    if name != "has" || args.len() != 1 {
        return parser.made(at, Expr::call(name, false, args));
    }
    match args.pop() {
        Some(Node { expr: Expr::Select { operand, field, how: Access::Plain }, .. }) => {
            parser.made(at, Expr::Select { operand, field, how: Access::Test })
        }
        other => parser.fail_at(other.map_or(at, |node| node.at), "invalid argument to has() macro"),
    }
}

/// A call `operand.name(args)` at `at`.
pub(crate) fn member(
    parser: &Parser<'_>,
    at: usize,
    operand: Node,
    name: String,
    args: Vec<Node>,
) -> Result<Node, CompileError> {
    let Some((kind, variables, filter)) = shape(&name, args.len()) else {
        let mut all = vec![operand];
        all.extend(args);
        return parser.made(at, Expr::call(&name, true, all));
    };
    let mut args = args.into_iter();
    let mut names = Vec::new();
    for node in args.by_ref().take(variables) {
        match node.expr {
            Expr::Ident(name) if !names.contains(&name) => names.push(name),
            Expr::Ident(_) => {
                return parser.fail_at(node.at, "duplicate variable name");
            }
            _ => return parser.fail_at(node.at, "argument must be a simple name"),
        }
    }
    let filter = if filter { args.next() } else { None };
    let mut names = names.into_iter();
    let (Some(first), Some(body)) = (names.next(), args.next()) else {
        return parser.fail_at(at, "argument must be a simple name");
    };
    let comprehension = Comprehension { kind, range: operand, first, second: names.next(), filter, body };
    parser.made(at, Expr::Comprehension(Box::new(comprehension)))
}

/// Kind, number of variables and whether a filter comes before the body.
fn shape(name: &str, args: usize) -> Option<(Kind, usize, bool)> {
    Some(match (name, args) {
        ("all", 2) => (Kind::All, 1, false),
        ("all", 3) => (Kind::All, 2, false),
        ("exists", 2) => (Kind::Exists, 1, false),
        ("exists", 3) => (Kind::Exists, 2, false),
        ("exists_one" | "existsOne", 2) => (Kind::ExistsOne, 1, false),
        ("existsOne", 3) => (Kind::ExistsOne, 2, false),
        ("map", 2) => (Kind::List, 1, false),
        ("map", 3) => (Kind::List, 1, true),
        ("filter", 2) => (Kind::Filter, 1, false),
        ("transformList", 3) => (Kind::List, 2, false),
        ("transformList", 4) => (Kind::List, 2, true),
        ("transformMap", 3) => (Kind::Map, 2, false),
        ("transformMap", 4) => (Kind::Map, 2, true),
        ("transformMapEntry", 3) => (Kind::Entries, 2, false),
        ("transformMapEntry", 4) => (Kind::Entries, 2, true),
        ("sortBy", 2) => (Kind::SortBy, 1, false),
        ("optMap", 2) => (Kind::OptMap, 1, false),
        ("optFlatMap", 2) => (Kind::OptFlatMap, 1, false),
        _ => return None,
    })
}
