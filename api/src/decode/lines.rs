//! On which lines of a YAML text keys stand twice: what its strict decoder says of them. Only block style is read; of
//! flow style (and of what is no YAML at all) nothing is found.

/// How many are looked for.
const MAX: usize = 20;

/// A key at the beginning of a line's rest.
fn key_of(rest: &str) -> Option<&str> {
    let rest = rest.trim_end();
    for quote in ['"', '\''] {
        if let Some(inner) = rest.strip_prefix(quote) {
            let end = inner.find(quote)?;
            return inner[end + 1..].starts_with(':').then(|| &inner[..end]);
        }
    }
    if rest.starts_with(['{', '[', '#', '&', '*', '!', '|', '>']) {
        return None;
    }
    let end = rest.find(": ").or_else(|| rest.strip_suffix(':').map(str::len))?;
    Some(rest[..end].trim_end())
}

/// `line 9: key "foo" already set in map`, in order.
pub fn duplicate_lines(bytes: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Vec::new() };
    let mut found = Vec::new();
    // Open mappings: their columns and keys.
    let mut open: Vec<(usize, Vec<&str>)> = Vec::new();
    // A literal text goes on while lines are indented deeper than this.
    let mut literal: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let mut column = line.len() - line.trim_start().len();
        let mut rest = &line[column..];
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        if literal.is_some_and(|of| column > of) {
            continue;
        }
        literal = None;
        if rest == "---" {
            open.clear();
            continue;
        }
        while let Some(item) = rest.strip_prefix("- ") {
            // Each item of a list is a mapping of its own.
            open.retain(|(known, _)| *known <= column);
            let skipped = item.len() - item.trim_start().len() + 2;
            column += skipped;
            rest = item.trim_start();
            open.retain(|(known, _)| *known < column);
        }
        let Some(key) = key_of(rest) else { continue };
        if rest.trim_end().ends_with(['|', '>']) {
            literal = Some(column);
        }
        open.retain(|(known, _)| *known <= column);
        match open.last_mut().filter(|(known, _)| *known == column) {
            Some((_, keys)) if keys.contains(&key) => {
                if found.len() < MAX {
                    found.push(format!("line {}: key {key:?} already set in map", number + 1));
                }
            }
            Some((_, keys)) => keys.push(key),
            None => open.push((column, vec![key])),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_stand_twice() {
        let text = "\na: 1\nb:\n  c: 1\n  d:\n  - x: 1\n    y: 2\n  - x: 1\n    x: 2\n  c: 2\nt: |\n  a: 1\n  a: 2\na: 2\n";
        assert_eq!(
            duplicate_lines(text.as_bytes()),
            ["line 9: key \"x\" already set in map", "line 10: key \"c\" already set in map", "line 14: key \"a\" already set in map"]
        );
        assert!(duplicate_lines(b"{\"a\": 1, \"a\": 2}").is_empty());
        assert!(duplicate_lines(b"\xff").is_empty());
    }
}
