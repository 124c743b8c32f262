//! Sets of completion indexes as a Job's status spells them: `0,2-5,9`.

use std::collections::BTreeSet;
use std::fmt;

/// Closed intervals in order, neither touching nor overlapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the spelling; what is not below `completions` is left out, and what cannot be read is skipped, as the
    /// original does.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut intervals = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            if first < 0 || first >= completions {
                continue;
            }
            intervals.push((first, last.min(completions - 1)));
        }
        Self::default().merged(&intervals)
    }

    fn merged(&self, more: &[(i32, i32)]) -> Self {
        let mut all: Vec<(i32, i32)> = self.0.iter().chain(more).copied().filter(|(first, last)| first <= last).collect();
        all.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// These and single ones.
    #[must_use]
    pub fn with(&self, more: &BTreeSet<i32>) -> Self {
        self.merged(&more.iter().map(|index| (*index, *index)).collect::<Vec<_>>())
    }

    /// These and those.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.merged(&other.0)
    }

    /// How many.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1).sum()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is one of them.
    pub fn has(&self, index: i32) -> bool {
        let next = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(next).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i64 {
        let (mut at, mut there, mut count) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(at), other.0.get(there)) {
            count += (i64::from(a.1.min(b.1)) - i64::from(a.0.max(b.0)) + 1).max(0);
            if a.1 <= b.1 {
                at += 1;
            }
            if b.1 <= a.1 {
                there += 1;
            }
        }
        count
    }

    /// The first `count` indexes below `completions` that are not among these.
    pub fn free(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut free = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            while candidate < first.min(completions) && free.len() < count {
                free.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        free
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spelling_and_reading() {
        let cases = [("", ""), ("3", "3"), ("0,1", "0,1"), ("0-1,2", "0-2"), ("0,2-5,9", "0,2-5,9"), ("8-20", "8,9"), ("x,1", "1"), ("12", "")];
        for (text, expected) in cases {
            assert_eq!(Indexes::parse(text, 10).to_string(), expected, "{text}");
        }
        let some = Indexes::parse("0,2-5,9", 10);
        assert_eq!((some.count(), some.free(3, 12), some.free(9, 10)), (6, vec![1, 6, 7], vec![1, 6, 7, 8]));
    }

    proptest! {
        // The same as plain sets.
        #[test]
        fn like_sets(a in prop::collection::btree_set(0..40i32, 0..30), b in prop::collection::btree_set(0..40i32, 0..30)) {
            let (x, y) = (Indexes::default().with(&a), Indexes::default().with(&b));
            prop_assert_eq!(&Indexes::parse(&x.to_string(), 40), &x);
            prop_assert_eq!(x.count(), a.len() as i64);
            prop_assert_eq!(x.common(&y), a.intersection(&b).count() as i64);
            prop_assert_eq!(x.union(&y), Indexes::default().with(&a.union(&b).copied().collect()));
            prop_assert!((0..40).all(|index| x.has(index) == a.contains(&index)));
            let free: Vec<i32> = (0..50).filter(|index| !a.contains(index)).take(7).collect();
            prop_assert_eq!(x.free(7, 50), free);
        }
    }
}
