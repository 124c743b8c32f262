//! Simple tokens: which are valid, and whose they are. Pure: the time is given, in milliseconds.
//!
//! Every replica hears of every token through the log and forgets it by its own clock, as etcd's members do: a token
//! that was not used at this replica for [`LIFE`] is refused here, and the client logs in again.

use std::collections::HashMap;

use crate::ledger::auth::Tokens;

/// Milliseconds for which a token lives without being used; etcd's `--auth-token-ttl`.
const LIFE: u64 = 300_000;
/// Most tokens at one time; the one that was used longest ago makes room.
const MOST: usize = 65_536;

/// The valid tokens.
#[derive(Debug, Default)]
pub struct Table {
    tokens: HashMap<String, (String, u64)>,
}

impl Table {
    /// Takes in what a change of users means to them.
    pub fn note(&mut self, change: Tokens, now: u64) {
        match change {
            Tokens::Stay => {}
            Tokens::Given { token, user } => {
                if self.tokens.len() >= MOST {
                    self.make_room(now);
                }
                self.tokens.insert(token, (user, now.saturating_add(LIFE)));
            }
            Tokens::EndOf(user) => self.tokens.retain(|_, (owner, _)| *owner != user),
            Tokens::EndAll => self.tokens.clear(),
        }
    }

    fn make_room(&mut self, now: u64) {
        self.tokens.retain(|_, (_, until)| *until > now);
        if self.tokens.len() >= MOST
            && let Some(oldest) = self.tokens.iter().min_by_key(|(_, (_, until))| *until).map(|(token, _)| token.clone())
        {
            self.tokens.remove(&oldest);
        }
    }

    /// Whose it is; using it keeps it alive.
    pub fn user(&mut self, token: &str, now: u64) -> Option<String> {
        let (user, until) = self.tokens.get_mut(token)?;
        if *until <= now {
            self.tokens.remove(token);
            return None;
        }
        *until = now.saturating_add(LIFE);
        Some(user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_while_it_is_used_and_ends_with_its_user() {
        let mut table = Table::default();
        let given = |token: &str, user: &str| Tokens::Given { token: token.to_owned(), user: user.to_owned() };
        table.note(given("t", "a"), 0);
        table.note(given("u", "b"), 0);
        assert_eq!(table.user("t", LIFE - 1).as_deref(), Some("a"));
        assert_eq!(table.user("t", 2 * LIFE - 2).as_deref(), Some("a"));
        assert_eq!(table.user("u", LIFE), None);
        table.note(Tokens::EndOf("a".to_owned()), LIFE);
        assert_eq!(table.user("t", LIFE), None);
        table.note(given("v", "b"), 0);
        table.note(Tokens::EndAll, 0);
        assert_eq!(table.user("v", 0), None);
    }
}
