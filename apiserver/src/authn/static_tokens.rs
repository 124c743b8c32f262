//! Tokens from a file: `token,user,uid,"group1,group2"` per line, as kube-apiserver's `--token-auth-file`. Pure.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{AUTHENTICATED, Caller};

/// Users by their tokens. The tokens themselves are not kept.
#[derive(Debug, Clone, Default)]
pub struct StaticTokens {
    /// By the token's hash: looking one up tells nothing about others by its time.
    users: BTreeMap<[u8; 32], Caller>,
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The cells of one line: separated by commas, quoted where they hold some.
fn cells(line: &str) -> Result<Vec<String>, String> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let cell = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').ok_or("a quote is not closed")?;
                rest = quoted.get(end + 1..).unwrap_or_default().trim_start();
                quoted.get(..end).unwrap_or_default()
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let cell = rest.get(..end).unwrap_or_default();
                rest = rest.get(end..).unwrap_or_default();
                cell.trim_end()
            }
        };
        cells.push(cell.to_owned());
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(cells),
            None => return Err("text behind a closing quote".to_owned()),
        }
    }
}

impl StaticTokens {
    /// From a file's content. The error names the line, never what is in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |problem: &str| format!("line {}: {problem}", index + 1);
            let cells = cells(line).map_err(|problem| at(&problem))?;
            let (token, user, uid, groups) = match cells.as_slice() {
                [token, user, uid] => (token, user, uid, ""),
                [token, user, uid, groups, ..] => (token, user, uid, groups.as_str()),
                _ => return Err(at("token, user and uid are needed")),
            };
            if token.is_empty() || user.is_empty() {
                return Err(at("the token or the user is empty"));
            }
            let mut groups: Vec<String> =
                groups.split(',').map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
            if !groups.iter().any(|group| group == AUTHENTICATED) {
                groups.push(AUTHENTICATED.to_owned());
            }
            let caller = Caller { user: user.clone(), uid: uid.clone(), groups, ..Caller::default() };
            users.insert(digest(token), caller);
        }
        Ok(Self { users })
    }

    /// Whose token it is.
    pub fn caller(&self, token: &str) -> Option<&Caller> {
        self.users.get(&digest(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_makes_a_user() {
        let tokens = StaticTokens::parse("t1,ann,u1,\"dev, ops\"\n\n# note\nt2,bob,u2\n").unwrap();
        assert_eq!(tokens.caller("t1").unwrap().groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!((tokens.caller("t2").unwrap().user.as_str(), tokens.caller("t2").unwrap().uid.as_str()), ("bob", "u2"));
        assert!(tokens.caller("t3").is_none() && tokens.caller("").is_none());
        for bad in ["t1,ann", ",ann,u", "t,a,u,\"x", "t,a,u,\"x\"y"] {
            let error = StaticTokens::parse(bad).unwrap_err();
            assert!(error.starts_with("line 1: ") && !error.contains("ann"), "{error}");
        }
    }
}
