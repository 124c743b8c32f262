//! The part of kubectl's JSONPath that definitions use: printer columns, scale paths, selectable fields.
//!
//! `.a.b`, `['a.b']`, `[0]`, `[-1]`, `[1:3]`, `[*]`, `.*`, `..a` and filters such as `[?(@.type=="Ready")]`. Missing
//! members are no error: they find nothing.

use serde_json::Value;

/// Values found at most: `..` over a large object would otherwise collect it again and again.
const MAX_FOUND: usize = 10_000;
/// Steps of one path.
const MAX_STEPS: usize = 100;

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Every,
    Below(String),
    Where(Vec<Step>, Test),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Exists,
    Compare(String, Value),
}

/// A path, parsed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonPath {
    steps: Vec<Step>,
}

struct Parser<'a> {
    rest: &'a str,
}

type Parsed<T> = Result<T, String>;

impl Parser<'_> {
    fn word(&mut self) -> String {
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, letter)) = chars.next() {
            match letter {
                '\\' => out.extend(chars.next().map(|(_, letter)| letter)),
                '.' | '[' | ']' | ' ' | '=' | '!' | '<' | '>' | ')' => {
                    end = at;
                    break;
                }
                letter => out.push(letter),
            }
        }
        self.rest = &self.rest[end..];
        out
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self) -> Parsed<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            if steps.len() > MAX_STEPS {
                return Err("the path has too many steps".to_owned());
            }
            if self.eat("..") {
                steps.push(Step::Below(self.word()));
            } else if self.eat(".*") {
                steps.push(Step::Every);
            } else if self.eat(".") {
                let word = self.word();
                if !word.is_empty() {
                    steps.push(Step::Member(word));
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn bracket(&mut self) -> Parsed<Step> {
        for quote in ['\'', '"'] {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let end = rest.find(quote).ok_or("unterminated string in the path")?;
                let name = rest[..end].to_owned();
                self.rest = &rest[end + 1..];
                return if self.eat("]") { Ok(Step::Member(name)) } else { Err("a ] is missing".to_owned()) };
            }
        }
        if self.eat("?(") {
            return self.filter();
        }
        let end = self.rest.find(']').ok_or("unterminated array")?;
        let inner = self.rest[..end].trim();
        self.rest = &self.rest[end + 1..];
        if inner == "*" {
            return Ok(Step::Every);
        }
        let number = |text: &str| -> Parsed<Option<i64>> {
            let text = text.trim();
            if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| format!("invalid array index {text}")) }
        };
        match inner.split_once(':') {
            Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
            None => Ok(Step::Index(number(inner)?.ok_or("invalid array index")?)),
        }
    }

    fn filter(&mut self) -> Parsed<Step> {
        self.rest = self.rest.trim_start();
        if !self.eat("@") {
            return Err("a filter must begin with @".to_owned());
        }
        let steps = self.steps()?;
        self.rest = self.rest.trim_start();
        if self.eat(")]") {
            return Ok(Step::Where(steps, Test::Exists));
        }
        let known = ["==", "!=", "<=", ">=", "<", ">"];
        let operator = known.into_iter().find(|operator| self.eat(operator)).ok_or("unknown operator in a filter")?;
        self.rest = self.rest.trim_start();
        let value = self.literal()?;
        self.rest = self.rest.trim_start();
        if !self.eat(")]") {
            return Err("unterminated filter".to_owned());
        }
        Ok(Step::Where(steps, Test::Compare(operator.to_owned(), value)))
    }

    fn literal(&mut self) -> Parsed<Value> {
        for quote in ['\'', '"'] {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                let end = rest.find(quote).ok_or("unterminated string in a filter")?;
                let text = rest[..end].to_owned();
                self.rest = &rest[end + 1..];
                return Ok(Value::String(text));
            }
        }
        let end = self.rest.find(')').ok_or("unterminated filter")?;
        let text = self.rest[..end].trim();
        let value = serde_json::from_str(text).map_err(|_| format!("unrecognized value {text} in a filter"))?;
        self.rest = &self.rest[end..];
        Ok(value)
    }
}

impl JsonPath {
    /// Parses `.spec.replicas`. The error is a sentence about it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim() };
        let steps = parser.steps()?;
        if parser.rest.is_empty() { Ok(Self { steps }) } else { Err(format!("unexpected {:?} in the path", parser.rest)) }
    }

    /// Everything that the path finds.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        follow(&self.steps, value)
    }

    /// The first thing that it finds, null left out.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.find(value).into_iter().find(|found| !found.is_null())
    }

    /// Puts a value at a path of plain members, which are made where they are missing. False: it is no such path.
    pub fn set(&self, object: &mut Value, to: Value) -> bool {
        let mut place = object;
        for step in &self.steps {
            let Step::Member(name) = step else { return false };
            if !place.is_object() {
                *place = Value::Object(serde_json::Map::new());
            }
            let Value::Object(map) = place else { return false };
            place = map.entry(name.clone()).or_insert(Value::Null);
        }
        *place = to;
        true
    }
}

fn follow<'a>(steps: &[Step], value: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            take(step, value, &mut next);
            if next.len() > MAX_FOUND {
                next.truncate(MAX_FOUND);
                break;
            }
        }
        found = next;
    }
    found
}

fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

fn take<'a>(step: &Step, value: &'a Value, out: &mut Vec<&'a Value>) {
    match (step, value) {
        (Step::Member(name), Value::Object(map)) => out.extend(map.get(name)),
        (Step::Index(index), Value::Array(items)) => {
            out.extend(place(*index, items.len()).and_then(|index| items.get(index)));
        }
        (Step::Slice(from, to), Value::Array(items)) => {
            let start = from.map_or(Some(0), |from| place(from, items.len())).unwrap_or(0).min(items.len());
            let end = to.map_or(Some(items.len()), |to| place(to, items.len())).unwrap_or(0).min(items.len());
            out.extend(items.get(start..end.max(start)).into_iter().flatten());
        }
        (Step::Every, Value::Array(items)) => out.extend(items),
        (Step::Every, Value::Object(map)) => out.extend(map.values()),
        (Step::Below(name), value) => everywhere(name, value, out),
        (Step::Where(steps, test), Value::Array(items)) => {
            out.extend(items.iter().filter(|item| holds(steps, test, item)));
        }
        _ => {}
    }
}

fn everywhere<'a>(name: &str, value: &'a Value, out: &mut Vec<&'a Value>) {
    if out.len() > MAX_FOUND {
        return;
    }
    match value {
        Value::Object(map) => {
            out.extend(map.get(name));
            map.values().for_each(|inner| everywhere(name, inner, out));
        }
        Value::Array(items) => items.iter().for_each(|inner| everywhere(name, inner, out)),
        _ => {}
    }
}

fn holds(steps: &[Step], test: &Test, item: &Value) -> bool {
    let found = follow(steps, item);
    let Some(first) = found.first() else { return false };
    match test {
        Test::Exists => true,
        Test::Compare(operator, wanted) => {
            let order = match (first.as_f64(), wanted.as_f64()) {
                (Some(a), Some(b)) => a.partial_cmp(&b),
                _ => first.as_str().zip(wanted.as_str()).map(|(a, b)| a.cmp(b)),
            };
            match operator.as_str() {
                "==" => *first == wanted || order.is_some_and(std::cmp::Ordering::is_eq),
                "!=" => *first != wanted && !order.is_some_and(std::cmp::Ordering::is_eq),
                "<" => order.is_some_and(std::cmp::Ordering::is_lt),
                "<=" => order.is_some_and(std::cmp::Ordering::is_le),
                ">" => order.is_some_and(std::cmp::Ordering::is_gt),
                _ => order.is_some_and(std::cmp::Ordering::is_ge),
            }
        }
    }
}
