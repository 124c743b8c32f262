//! The name of a pod template: a short hash of its content, spelled in letters that make no words.
//!
//! The value differs from Kubernetes' (which hashes a Go memory dump); what matters is that equal templates have equal
//! hashes, and that a collision count gives another one.

use serde::Serialize;

/// Letters of Kubernetes' safe encoding.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Each decimal digit as a letter.
fn spelled(hash: u32) -> String {
    let letter = |digit: u8| char::from(LETTERS[usize::from(digit) % LETTERS.len()]);
    hash.to_string().bytes().map(letter).collect()
}

/// The hash of a template (by its JSON form, whose members are ordered by the type).
pub fn of<T: Serialize>(template: &T, collision_count: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).unwrap_or_default();
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&count.to_le_bytes());
    }
    spelled(fnv(&bytes))
}

/// The hash of a revision's data with a collision count, as Kubernetes computes it for StatefulSets (FNV-1, 32 bits).
pub fn of_data(data: &serde_json::Value, collision_count: i32) -> String {
    let text = format!("{data}{collision_count}");
    spelled(text.bytes().fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_has_an_equal_name_and_a_collision_another() {
        assert_eq!(of(&["a"], None), of(&["a"], None));
        assert_ne!(of(&["a"], None), of(&["b"], None));
        assert_ne!(of(&["a"], None), of(&["a"], Some(1)));
        assert!(of(&["a"], None).bytes().all(|byte| LETTERS.contains(&byte)));
    }
}
