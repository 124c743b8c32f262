//! Names that the server makes up: suffixes for `generateName`, UIDs. The only place of the crate with randomness; the
//! generator is an argument where a caller needs the same names again.

use rand::{Rng, RngExt as _};

/// Letters and digits that cannot form words or be mistaken.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest name that a generated one is cut to.
const MAX_NAME: usize = 63;
const SUFFIX: usize = 5;

/// So many random letters that are safe in a name.
pub fn suffix(random: &mut impl Rng, length: usize) -> String {
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// `web-` becomes `web-x7b2c`; a long prefix is cut so that the name has 63 letters at most.
pub fn generate_name_with(random: &mut impl Rng, prefix: &str) -> String {
    let mut end = prefix.len().min(MAX_NAME - SUFFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], suffix(random, SUFFIX))
}

/// [`generate_name_with`] the thread's generator.
pub fn generate_name(prefix: &str) -> String {
    generate_name_with(&mut rand::rng(), prefix)
}

/// A new UID.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}
