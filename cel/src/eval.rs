//! The evaluator: a tree and bindings to a value, every step charged. `&&`, `||`, `all` and `exists` absorb an error
//! when another operand decides; a spent budget nothing absorbs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Bindings;
use crate::ast::{Access, Call, Comprehension, Expr, Kind, Node};
use crate::budget::Budget;
use crate::compare::{equal, lookup, order};
use crate::error::EvalError;
use crate::functions::Args;
use crate::value::{Key, Object, Value};

pub(crate) struct Evaluator<'a> {
    pub bindings: &'a Bindings,
    pub budget: &'a mut Budget,
    /// Variables of comprehensions, innermost last.
    pub locals: Vec<(&'a str, Value)>,
}

type Answer = Result<Value, EvalError>;

impl<'a> Evaluator<'a> {
    pub fn node(&mut self, node: &'a Node) -> Answer {
        self.budget.enter()?;
        let answer = self.inside(node);
        self.budget.leave();
        answer
    }

    fn inside(&mut self, node: &'a Node) -> Answer {
        match &node.expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Ident(name) => self.ident(name),
            Expr::Select { operand, field, how } => self.select(operand, field, *how),
            Expr::Call(call) => self.call(call),
            Expr::And(parts) => self.logic(parts, false),
            Expr::Or(parts) => self.logic(parts, true),
            Expr::Ternary(parts) => self.ternary(parts),
            Expr::List(items) => self.list(items),
            Expr::Map(entries) => self.map(entries),
            Expr::Struct(name, fields) => self.object(name, fields),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn ident(&mut self, name: &str) -> Answer {
        self.budget.charge(1)?;
        if let Some((_, value)) = self.locals.iter().rev().find(|(other, _)| *other == name) {
            return Ok(value.clone());
        }
        match self.bindings.get(name) {
            Some(value) => Ok(value.clone()),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, operand: &'a Node, field: &str, how: Access) -> Answer {
        let value = self.node(operand)?;
        if how != Access::Test {
            self.budget.charge(1)?;
        }
        let (value, was_optional) = match value {
            Value::Optional(None) => {
                return Ok(if how == Access::Test { Value::Bool(false) } else { Value::none() });
            }
            Value::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        let found = self.field(&value, field)?;
        match how {
            Access::Test => Ok(Value::Bool(found.is_some())),
            Access::Optional => Ok(found.map_or_else(Value::none, Value::some)),
            Access::Plain if was_optional => Ok(found.map_or_else(Value::none, Value::some)),
            Access::Plain => found.ok_or_else(|| EvalError::no_key(field)),
        }
    }

    fn field(&mut self, value: &Value, field: &str) -> Result<Option<Value>, EvalError> {
        match value {
            Value::Map(map) => Ok(map.get(&Key::String(field.into())).cloned()),
            Value::Object(object) => Ok(object.fields.get(field).cloned()),
            Value::Dynamic(dynamic) => dynamic.field(field, self.budget),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn call(&mut self, call: &'a Call) -> Answer {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.node(arg)?);
        }
        self.budget.charge(1)?;
        let fitting = call
            .overloads
            .iter()
            .find(|overload| overload.args.iter().zip(&args).all(|(wanted, given)| given.matches(wanted)));
        let Some(overload) = fitting else { return Err(EvalError::no_overload()) };
        (overload.run)(&mut Args { values: &args, pattern: call.pattern.as_ref(), budget: self.budget })
    }

    /// `||` (decided by true) and `&&` (decided by false).
    fn logic(&mut self, parts: &'a [Node], decisive: bool) -> Answer {
        let mut failure = None;
        for part in parts {
            self.budget.charge(1)?;
            match self.node(part) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or_else(|| Some(EvalError::no_overload())),
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn ternary(&mut self, parts: &'a [Node; 3]) -> Answer {
        let [condition, then, otherwise] = parts;
        self.budget.charge(1)?;
        match self.node(condition)? {
            Value::Bool(true) => self.node(then),
            Value::Bool(false) => self.node(otherwise),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// What goes into a list, map or object for an element: nothing for `?none`.
    fn element(&mut self, optional: bool, node: &'a Node) -> Result<Option<Value>, EvalError> {
        let value = self.node(node)?;
        match (optional, value) {
            (false, value) => Ok(Some(value)),
            (true, Value::Optional(inner)) => Ok(inner.map(|inner| (*inner).clone())),
            (true, other) => {
                Err(EvalError::new(format!("cannot initialize optional entry from non-optional value {other}")))
            }
        }
    }

    fn list(&mut self, items: &'a [(bool, Node)]) -> Answer {
        self.budget.charge(10)?;
        let mut made = Vec::with_capacity(items.len());
        for (optional, item) in items {
            made.extend(self.element(*optional, item)?);
        }
        Ok(Value::list(made))
    }

    fn map(&mut self, entries: &'a [(bool, Node, Node)]) -> Answer {
        self.budget.charge(30)?;
        let mut made = BTreeMap::new();
        for (optional, key, value) in entries {
            let key = self.key(key)?;
            if let Some(value) = self.element(*optional, value)?
                && made.insert(key.clone(), value).is_some()
            {
                return Err(EvalError::new(format!("Failed with repeated key: {key}")));
            }
        }
        Ok(Value::Map(Arc::new(made)))
    }

    fn key(&mut self, node: &'a Node) -> Result<Key, EvalError> {
        let value = self.node(node)?;
        Key::of(&value).ok_or_else(|| EvalError::new("unsupported key type"))
    }

    fn object(&mut self, name: &str, fields: &'a [(bool, String, Node)]) -> Answer {
        self.budget.charge(40)?;
        let mut made = BTreeMap::new();
        for (optional, field, value) in fields {
            if let Some(value) = self.element(*optional, value)? {
                made.insert(Arc::from(field.as_str()), value);
            }
        }
        Ok(Value::Object(Arc::new(Object { name: name.into(), fields: made })))
    }

    fn comprehension(&mut self, c: &'a Comprehension) -> Answer {
        let range = self.node(&c.range)?;
        if matches!(c.kind, Kind::OptMap | Kind::OptFlatMap) {
            return self.optional(c, range);
        }
        self.budget.charge_scan(range.size())?;
        let items = pairs(&range)?;
        let over_map = !matches!(range, Value::List(_));
        let mut fold = Fold { kind: c.kind, ..Fold::default() };
        for (key, value) in items {
            self.budget.charge(3)?;
            let depth = self.locals.len();
            let single = if over_map && c.second.is_none() { key.clone() } else { value.clone() };
            match &c.second {
                Some(second) => {
                    self.locals.push((&c.first, key.clone()));
                    self.locals.push((second, value));
                }
                None => self.locals.push((&c.first, single.clone())),
            }
            let step = self.step(c, &mut fold, &key, single);
            self.locals.truncate(depth);
            if step? {
                break;
            }
        }
        fold.finish(self.budget)
    }

    /// One element; whether the answer is known.
    fn step(&mut self, c: &'a Comprehension, fold: &mut Fold, key: &Value, item: Value) -> Result<bool, EvalError> {
        if let Some(filter) = &c.filter {
            match self.node(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(false),
                _ => return Err(EvalError::no_overload()),
            }
        }
        let body = self.node(&c.body);
        fold.add(body, key, item)
    }

    fn optional(&mut self, c: &'a Comprehension, range: Value) -> Answer {
        let inner = match range {
            Value::Optional(Some(inner)) => (*inner).clone(),
            Value::Optional(None) => return Ok(Value::none()),
            _ => return Err(EvalError::no_overload()),
        };
        self.locals.push((&c.first, inner));
        let body = self.node(&c.body);
        self.locals.pop();
        if c.kind == Kind::OptMap { body.map(Value::some) } else { body }
    }
}

/// Index or key, and element, of everything in a list or map.
fn pairs(range: &Value) -> Result<Vec<(Value, Value)>, EvalError> {
    match range {
        Value::List(items) => {
            Ok((0_i64..).zip(items.iter()).map(|(at, item)| (Value::Int(at), item.clone())).collect())
        }
        Value::Map(map) => Ok(map.iter().map(|(key, value)| (key.value(), value.clone())).collect()),
        Value::Object(object) => {
            Ok(object.fields.iter().map(|(key, value)| (Value::String(key.clone()), value.clone())).collect())
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// What a comprehension has gathered so far.
struct Fold {
    kind: Kind,
    failure: Option<EvalError>,
    decided: Option<bool>,
    count: u64,
    items: Vec<Value>,
    keys: Vec<Value>,
    map: BTreeMap<Key, Value>,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            kind: Kind::All,
            failure: None,
            decided: None,
            count: 0,
            items: Vec::new(),
            keys: Vec::new(),
            map: BTreeMap::new(),
        }
    }
}

impl Fold {
    fn add(&mut self, body: Answer, key: &Value, item: Value) -> Result<bool, EvalError> {
        match self.kind {
            Kind::All | Kind::Exists => {
                let decisive = self.kind == Kind::Exists;
                match body {
                    Ok(Value::Bool(value)) if value == decisive => self.decided = Some(decisive),
                    Ok(Value::Bool(_)) => {}
                    Ok(_) => self.failure = Some(EvalError::no_overload()),
                    Err(EvalError::Cost) => return Err(EvalError::Cost),
                    Err(error) => self.failure = Some(error),
                }
                return Ok(self.decided.is_some());
            }
            Kind::ExistsOne => self.count += u64::from(truth(body?)?),
            Kind::Filter => {
                if truth(body?)? {
                    self.items.push(item);
                }
            }
            Kind::List => self.items.push(body?),
            Kind::SortBy => {
                self.keys.push(body?);
                self.items.push(item);
            }
            Kind::Map => {
                let key = Key::of(key).ok_or_else(|| EvalError::new("unsupported key type"))?;
                self.map.insert(key, body?);
            }
            Kind::Entries => self.entries(body?)?,
            Kind::OptMap | Kind::OptFlatMap => return Err(EvalError::no_overload()),
        }
        Ok(false)
    }

    fn entries(&mut self, body: Value) -> Result<(), EvalError> {
        let Value::Map(entries) = body else { return Err(EvalError::no_overload()) };
        for (key, value) in entries.iter() {
            if lookup(&self.map, &key.value()).is_some() {
                return Err(EvalError::new(format!("insert failed: key {key} already exists")));
            }
            self.map.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    fn finish(self, budget: &mut Budget) -> Answer {
        match self.kind {
            Kind::All | Kind::Exists => match (self.decided, self.failure) {
                (Some(decided), _) => Ok(Value::Bool(decided)),
                (None, Some(failure)) => Err(failure),
                (None, None) => Ok(Value::Bool(self.kind == Kind::All)),
            },
            Kind::ExistsOne => Ok(Value::Bool(self.count == 1)),
            Kind::Map | Kind::Entries => Ok(Value::Map(Arc::new(self.map))),
            Kind::SortBy => sorted(self.items, &self.keys, budget),
            Kind::Filter | Kind::List | Kind::OptMap | Kind::OptFlatMap => Ok(Value::list(self.items)),
        }
    }
}

fn truth(value: Value) -> Result<bool, EvalError> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => Err(EvalError::no_overload()),
    }
}

/// The items in the order of their keys, equal ones as they were.
pub(crate) fn sorted(items: Vec<Value>, keys: &[Value], budget: &mut Budget) -> Answer {
    let length = keys.len() as u64;
    budget.charge(length.saturating_mul(u64::from(length.checked_ilog2().unwrap_or(0) + 1)))?;
    // Comparing neighbours first finds what cannot be ordered: all must be of one ordered type.
    if let Some(first) = keys.first() {
        for key in keys {
            order(first, key)?;
        }
    }
    let mut at: Vec<usize> = (0..keys.len()).collect();
    at.sort_by(|a, b| order(&keys[*a], &keys[*b]).unwrap_or(std::cmp::Ordering::Equal));
    Ok(Value::list(at.into_iter().filter_map(|i| items.get(i).cloned()).collect()))
}

/// Whether a list holds an element.
pub(crate) fn holds(items: &[Value], wanted: &Value, budget: &mut Budget) -> Result<bool, EvalError> {
    for item in items {
        budget.charge(1)?;
        if equal(item, wanted, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}
