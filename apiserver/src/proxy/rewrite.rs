//! Links in what comes back: `Location` and the URLs in HTML lead through the proxy again. Pure but for the writer it
//! is given; nothing is held but one tag.
//!
//! After `Transport.rewriteURL` and `rewriteHTML` of apimachinery's proxy package: what is absolute on the same host
//! gets the proxy's prefix, what is relative or leads elsewhere stays.

use std::io::{self, Write};

/// What is known of where a link stood.
#[derive(Debug, Clone)]
pub struct Links {
    /// `/api/v1/namespaces/n/pods/p/proxy`
    pub prefix: String,
    /// Hosts that mean the pod: its own address and what the client called the API server.
    pub hosts: Vec<String>,
}

impl Links {
    /// The link as it has to be for a client of the proxy.
    pub fn rewrite(&self, link: &str) -> String {
        let (host, path) = match split(link) {
            Some(parts) => parts,
            None => return link.to_owned(),
        };
        let elsewhere = !host.is_empty() && !self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host));
        if elsewhere || !path.starts_with('/') {
            return link.to_owned();
        }
        if path.starts_with(&self.prefix) { path.to_owned() } else { format!("{}{path}", self.prefix) }
    }
}

/// Host and the rest of a link. `None`: a scheme that has neither, such as `mailto:`.
fn split(link: &str) -> Option<(&str, &str)> {
    let after = match link.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => {
            if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") || !rest.starts_with("//") {
                return None;
            }
            rest
        }
        _ => link,
    };
    match after.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            Some((host.rsplit_once('@').map_or(host, |(_, host)| host), path))
        }
        None => Some(("", after)),
    }
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Which attributes of an element are URLs.
fn url_attributes(element: &str) -> &'static [&'static str] {
    match element {
        "a" | "area" | "base" | "link" => &["href"],
        "applet" => &["codebase"],
        "audio" | "embed" | "iframe" | "img" | "input" | "script" | "source" | "track" => &["src", "longdesc", "usemap", "formaction"],
        "blockquote" | "del" | "ins" | "q" => &["cite"],
        "body" => &["background"],
        "button" => &["formaction"],
        "command" => &["icon"],
        "form" => &["action"],
        "frame" => &["longdesc", "src"],
        "head" => &["profile"],
        "html" => &["manifest"],
        "object" => &["classid", "codebase", "data", "usemap"],
        "video" => &["poster", "src"],
        _ => &[],
    }
}

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: [&str; 6] = ["script", "style", "textarea", "title", "xmp", "plaintext"];
/// A tag that is longer is passed through as it is.
const MAX_TAG: usize = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Text,
    /// Between `<` and `>`; the quote that is open.
    Tag(Option<u8>),
    Comment,
    /// Until the end tag of this element.
    Raw(&'static str),
}

/// Rewrites HTML on its way to `out`.
pub struct Html<W: Write> {
    out: W,
    links: Links,
    state: State,
    /// The tag so far, or what may become the end of a comment or of raw text.
    held: Vec<u8>,
}

impl<W: Write> Html<W> {
    /// A rewriter in front of `out`.
    pub fn new(out: W, links: Links) -> Self {
        Self { out, links, state: State::Text, held: Vec::new() }
    }

    /// Where the HTML goes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes what is held and hands back where the HTML went.
    pub fn finish(mut self) -> io::Result<W> {
        self.release()?;
        Ok(self.out)
    }

    fn release(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.out.write_all(&held)
    }

    fn step(&mut self, byte: u8) -> io::Result<()> {
        match self.state.clone() {
            State::Text if byte == b'<' => {
                self.held.push(byte);
                self.state = State::Tag(None);
                Ok(())
            }
            State::Text => self.out.write_all(&[byte]),
            State::Tag(quote) => self.in_tag(byte, quote),
            State::Comment => {
                self.held.push(byte);
                if self.held.ends_with(b"-->") {
                    self.state = State::Text;
                    return self.release();
                }
                self.shed(3)
            }
            State::Raw(element) => {
                self.held.push(byte);
                let end = format!("</{element}");
                if self.held.len() >= end.len() && self.held[self.held.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes()) {
                    self.state = State::Tag(None);
                }
                self.shed(end.len())
            }
        }
    }

    /// Writes what is held but for its last bytes.
    fn shed(&mut self, keep: usize) -> io::Result<()> {
        let ready = self.held.len().saturating_sub(keep);
        let out: Vec<u8> = self.held.drain(..ready).collect();
        self.out.write_all(&out)
    }

    fn in_tag(&mut self, byte: u8, quote: Option<u8>) -> io::Result<()> {
        if self.held.len() == 1 && !(byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'!' | b'?')) {
            // A lone "<" is text.
            self.state = State::Text;
            self.release()?;
            return self.step(byte);
        }
        self.held.push(byte);
        if self.held == b"<!--" {
            self.state = State::Comment;
            return Ok(());
        }
        match (quote, byte) {
            (Some(open), _) if open == byte => self.state = State::Tag(None),
            (Some(_), _) => {}
            // Quotes count only where a value may begin.
            (None, b'"' | b'\'') if self.after_equals() => self.state = State::Tag(Some(byte)),
            (None, b'>') => return self.end_of_tag(),
            (None, _) => {}
        }
        if self.held.len() > MAX_TAG {
            self.state = State::Text;
            return self.release();
        }
        Ok(())
    }

    fn after_equals(&self) -> bool {
        let before = &self.held[..self.held.len() - 1];
        before.iter().rev().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'=')
    }

    fn end_of_tag(&mut self) -> io::Result<()> {
        let tag = std::mem::take(&mut self.held);
        self.state = State::Text;
        let Ok(text) = std::str::from_utf8(&tag) else { return self.out.write_all(&tag) };
        let name: String =
            text[1..].chars().take_while(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
        if let Some(element) = RAW_TEXT.iter().find(|raw| **raw == name)
            && !text.ends_with("/>")
        {
            self.state = State::Raw(element);
        }
        let rewritten = attributes(text, url_attributes(&name), &self.links);
        self.out.write_all(rewritten.as_bytes())
    }
}

impl<W: Write> Write for Html<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for byte in data {
            self.step(*byte)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A start tag with its URL attributes rewritten; everything else stays as it is.
fn attributes(tag: &str, wanted: &[&str], links: &Links) -> String {
    let bytes = tag.as_bytes();
    let mut out = String::with_capacity(tag.len() + links.prefix.len());
    let (mut at, mut copied) = (1, 0);
    while at < bytes.len() {
        // An attribute's name begins behind white space.
        if !bytes[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        while at < bytes.len() && (bytes[at].is_ascii_whitespace() || bytes[at] == b'/') {
            at += 1;
        }
        let start = at;
        while at < bytes.len() && !bytes[at].is_ascii_whitespace() && !matches!(bytes[at], b'=' | b'>' | b'/') {
            at += 1;
        }
        let name = tag[start..at].to_ascii_lowercase();
        let mut value = at;
        while value < bytes.len() && bytes[value].is_ascii_whitespace() {
            value += 1;
        }
        if bytes.get(value) != Some(&b'=') {
            continue;
        }
        value += 1;
        while value < bytes.len() && bytes[value].is_ascii_whitespace() {
            value += 1;
        }
        let (from, to) = match bytes.get(value) {
            Some(quote @ (b'"' | b'\'')) => {
                let from = value + 1;
                let length = bytes[from..].iter().position(|byte| byte == quote).unwrap_or(bytes.len() - from);
                (from, from + length)
            }
            _ => {
                let ends = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>';
                let length = bytes[value..].iter().position(ends).unwrap_or(bytes.len() - value);
                (value, value + length)
            }
        };
        if wanted.contains(&name.as_str()) {
            out.push_str(&tag[copied..from]);
            out.push_str(&links.rewrite(&tag[from..to]));
            copied = to;
        }
        at = to;
    }
    out.push_str(&tag[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/api/v1/namespaces/n/pods/p/proxy".into(), hosts: vec!["10.1.0.4:80".into(), "api:6443".into()] }
    }

    #[test]
    fn links_of_the_pod_lead_through_the_proxy() {
        let prefix = links().prefix;
        let cases = [
            ("/x", format!("{prefix}/x")),
            ("/", format!("{prefix}/")),
            ("x/y?z", "x/y?z".to_owned()),
            ("http://10.1.0.4:80/x?y=1#z", format!("{prefix}/x?y=1#z")),
            ("https://api:6443/x", format!("{prefix}/x")),
            ("//10.1.0.4:80/x", format!("{prefix}/x")),
            ("http://example.org/x", "http://example.org/x".to_owned()),
            ("mailto:a@b", "mailto:a@b".to_owned()),
            ("#top", "#top".to_owned()),
        ];
        for (link, expected) in cases {
            assert_eq!(links().rewrite(link), expected, "{link}");
        }
        let already = format!("{prefix}/x");
        assert_eq!(links().rewrite(&already), already);
    }

    fn html(text: &str) -> String {
        // However it is cut, it comes out the same.
        let mut outputs: Vec<Vec<u8>> = Vec::new();
        for piece in [1, 3, text.len().max(1)] {
            let mut rewriter = Html::new(Vec::new(), links());
            text.as_bytes().chunks(piece).for_each(|chunk| rewriter.write_all(chunk).unwrap());
            outputs.push(rewriter.finish().unwrap());
        }
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
        String::from_utf8(outputs.remove(0)).unwrap()
    }

    #[test]
    fn html_is_rewritten_where_it_links() {
        let prefix = links().prefix;
        assert_eq!(html(r#"<a href="/rewriteme">test</a>"#), format!(r#"<a href="{prefix}/rewriteme">test</a>"#));
        assert_eq!(html("<IMG alt='>' SRC=/i.png>"), format!("<IMG alt='>' SRC={prefix}/i.png>"));
        for untouched in [
            "a < b and c > d", "<!-- <a href=\"/x\"> -->", "<script>var a = '<a href=\"/x\">';</script>", "<p title=\"/x\">", "<a name=x>",
            "<a href=\"rel\">", "<", "<a href=\"/unfinished", "", "<input disabled>",
        ] {
            assert_eq!(html(untouched), untouched);
        }
        let mixed = "<script src=\"/s.js\"></script><form action='/f'><a\nhref = \"/x\" class=c>";
        assert_eq!(html(mixed), format!("<script src=\"{prefix}/s.js\"></script><form action='{prefix}/f'><a\nhref = \"{prefix}/x\" class=c>"));
    }

    #[test]
    fn an_endless_tag_is_let_through() {
        let text = format!("<a href=\"/x{}", "y".repeat(MAX_TAG * 2));
        assert_eq!(html(&text).len(), text.len());
    }
}
