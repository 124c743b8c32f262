//! Whether a change of the membership may be made. Pure: what is known of the members in, a refusal or nothing out.
//!
//! The rules are etcd's with `--strict-reconfig-check`: no change that leaves fewer started or reachable voters than a
//! majority of the new membership, unique peer URLs, few learners, promotion only of who has caught up.

use std::collections::BTreeMap;

use crate::error::Refusal;

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// How its peers reach it.
    pub peer_urls: Vec<String>,
    /// A learner that nobody promoted; a voter that still catches up is none.
    pub learner: bool,
    /// It has said its name.
    pub started: bool,
    /// The leader heard from it lately.
    pub reachable: bool,
    /// The newest log entry that the leader knows to be on its disk.
    pub matched: u64,
}

/// All members.
pub type Roll = BTreeMap<u64, Known>;

/// How far behind the leader a learner may be to be promoted, per cent of the log; etcd's figure.
const READY_PERCENT: u64 = 90;

fn voters(roll: &Roll) -> impl Iterator<Item = (&u64, &Known)> {
    roll.iter().filter(|(_, member)| !member.learner)
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

fn count(roll: &Roll, without: Option<u64>, what: impl Fn(&Known) -> bool) -> usize {
    voters(roll).filter(|(id, member)| Some(**id) != without && what(member)).count()
}

/// URLs of a member: at least one, each with a scheme and an address with a port, and nothing else.
pub fn urls(urls: &[String]) -> Result<(), Refusal> {
    let usable = |url: &String| {
        let Some((scheme, address)) = url.split_once("://") else { return false };
        let port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        matches!(scheme, "http" | "https") && port && !address.contains('/')
    };
    if !urls.is_empty() && urls.iter().all(usable) { Ok(()) } else { Err(Refusal::BadMemberUrls) }
}

fn unique(roll: &Roll, urls: &[String], but: Option<u64>) -> Result<(), Refusal> {
    let others = roll.iter().filter(|(id, _)| Some(**id) != but);
    let taken = others.flat_map(|(_, member)| &member.peer_urls).any(|url| urls.contains(url));
    if taken { Err(Refusal::PeerUrlExists) } else { Ok(()) }
}

/// A member is to be added.
pub fn add(roll: &Roll, urls: &[String], learner: bool, most_learners: usize, strict: bool) -> Result<(), Refusal> {
    let (all, started) = (count(roll, None, |_| true), count(roll, None, |member| member.started));
    let needed = majority(all + 1);
    if strict {
        // A second member may always be added to a single one: how else would a restored cluster grow.
        if !learner && started < needed && !(started == 1 && all == 1) {
            return Err(Refusal::NotEnoughStarted);
        }
        if all > 1 && count(roll, None, |member| member.reachable) < needed {
            return Err(Refusal::Unhealthy);
        }
    }
    unique(roll, urls, None)?;
    if learner && roll.values().filter(|member| member.learner).count() >= most_learners {
        return Err(Refusal::TooManyLearners);
    }
    Ok(())
}

/// A member is to be removed.
pub fn remove(roll: &Roll, id: u64, strict: bool) -> Result<(), Refusal> {
    let member = roll.get(&id).ok_or(Refusal::MemberNotFound)?;
    if member.learner || !strict {
        return Ok(());
    }
    let left = count(roll, Some(id), |_| true);
    if left == 0 || count(roll, Some(id), |member| member.started) < majority(left) {
        return Err(Refusal::NotEnoughStarted);
    }
    // One that is down takes nothing away from the majority that is up.
    if member.reachable && count(roll, Some(id), |member| member.reachable) < majority(left) {
        return Err(Refusal::Unhealthy);
    }
    Ok(())
}

/// A member's URLs are to be changed.
pub fn update(roll: &Roll, id: u64, urls: &[String]) -> Result<(), Refusal> {
    if !roll.contains_key(&id) {
        return Err(Refusal::MemberNotFound);
    }
    unique(roll, urls, Some(id))
}

/// A learner is to become a voter; `last` is the leader's newest entry.
pub fn promote(roll: &Roll, id: u64, last: u64, strict: bool) -> Result<(), Refusal> {
    let member = roll.get(&id).ok_or(Refusal::MemberNotFound)?;
    if !member.learner {
        return Err(Refusal::NotLearner);
    }
    if member.matched.saturating_mul(100) < last.saturating_mul(READY_PERCENT) {
        return Err(Refusal::LearnerNotReady);
    }
    let (all, started) = (count(roll, None, |_| true), count(roll, None, |member| member.started));
    if strict && started + 1 < majority(all + 1) { Err(Refusal::NotEnoughStarted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roll(members: &[(u64, bool, bool)]) -> Roll {
        let known = |(id, started, reachable): &(u64, bool, bool)| {
            let peer_urls = vec![format!("http://m{id}:1")];
            (*id, Known { peer_urls, learner: false, started: *started, reachable: *reachable, matched: 100 })
        };
        members.iter().map(known).collect()
    }

    #[test]
    fn a_change_may_not_cost_the_majority() {
        let whole = roll(&[(1, true, true), (2, true, true), (3, true, true)]);
        let one_down = roll(&[(1, true, true), (2, true, true), (3, true, false)]);
        let unstarted = roll(&[(1, true, true), (2, false, false)]);
        let new = ["http://new:1".to_owned()];
        for (name, members, added, removed) in [
            ("all are up", &whole, Ok(()), Ok(())),
            ("one is down", &one_down, Err(Refusal::Unhealthy), Ok(())),
            ("alone", &roll(&[(3, true, true)]), Ok(()), Err(Refusal::NotEnoughStarted)),
            ("the last added never came", &unstarted, Err(Refusal::NotEnoughStarted), Err(Refusal::MemberNotFound)),
        ] {
            assert_eq!(add(members, &new, false, 1, true), added, "add: {name}");
            assert_eq!(remove(members, 3, true), removed, "remove: {name}");
        }
        assert_eq!(remove(&one_down, 1, true), Err(Refusal::Unhealthy), "of two that are up, none may go");
        assert_eq!(remove(&unstarted, 2, true), Ok(()), "what never started may go");
        assert_eq!(remove(&unstarted, 1, true), Err(Refusal::NotEnoughStarted));
        assert_eq!(remove(&one_down, 1, false), Ok(()), "unless nobody is to be careful");
    }

    #[test]
    fn urls_are_unique_and_urls() {
        let members = roll(&[(1, true, true), (2, true, true), (3, true, true)]);
        let taken = ["http://m2:1".to_owned()];
        assert_eq!(add(&members, &taken, false, 1, true), Err(Refusal::PeerUrlExists));
        assert_eq!(update(&members, 2, &taken), Ok(()), "its own");
        assert_eq!(update(&members, 1, &taken), Err(Refusal::PeerUrlExists));
        assert_eq!(update(&members, 9, &taken), Err(Refusal::MemberNotFound));
        for (url, usable) in [
            ("http://a:1", true), ("https://[::1]:2380", true), ("http://a", false), ("a:1", false), ("ftp://a:1", false),
            ("http://:1", false), ("http://a:1/path", false), ("http://a:99999", false),
        ] {
            assert_eq!(urls(&[url.to_owned()]).is_ok(), usable, "{url}");
        }
        assert_eq!(urls(&[]), Err(Refusal::BadMemberUrls));
    }

    #[test]
    fn learners_are_few_and_become_voters_when_they_have_caught_up() {
        let mut members = roll(&[(1, true, true), (2, true, true), (3, true, true)]);
        let new = ["http://new:1".to_owned()];
        assert_eq!(promote(&members, 3, 100, true), Err(Refusal::NotLearner));
        assert_eq!(promote(&members, 4, 100, true), Err(Refusal::MemberNotFound));
        let learner = Known { learner: true, started: true, reachable: true, matched: 89, ..Known::default() };
        members.insert(4, learner);
        assert_eq!(add(&members, &new, true, 1, true), Err(Refusal::TooManyLearners));
        assert_eq!(promote(&members, 4, 100, true), Err(Refusal::LearnerNotReady));
        members.entry(4).and_modify(|member| member.matched = 90);
        assert_eq!(promote(&members, 4, 100, true), Ok(()));
        assert_eq!(remove(&members, 4, true), Ok(()));
    }
}
