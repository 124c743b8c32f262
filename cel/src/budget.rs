//! What an evaluation may cost: steps and sizes are charged, nesting is counted. A runaway expression ends with an error.

use crate::error::EvalError;

/// How deep evaluation may nest, expressions and lazily computed variables together. The parser allows 250 levels per
/// expression; the rest is for variables that refer to variables.
const DEEPEST: u32 = 600;

/// The cost of one call that Kubernetes allows (`PerCallLimit`).
pub const PER_CALL: u64 = 1_000_000;
/// The cost that all expressions of one policy or one object's rules may have together (`RuntimeCELCostBudget`).
pub const PER_REQUEST: u64 = 10_000_000;
/// The cost that the match conditions of one webhook or policy may have together.
pub const MATCH_CONDITIONS: u64 = PER_REQUEST / 4;

/// What is left to spend, in the unit of cel-go: about one per step, a tenth per character looked at.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    left: u64,
    depth: u32,
}

impl Budget {
    /// A budget of so many units.
    pub fn new(limit: u64) -> Self {
        Self { limit, left: limit, depth: 0 }
    }

    /// The cost so far.
    pub fn spent(&self) -> u64 {
        self.limit - self.left
    }

    /// What may still be spent.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes `cost`, or ends the evaluation.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        if cost > self.left {
            self.left = 0;
            return Err(EvalError::Cost);
        }
        self.left -= cost;
        Ok(())
    }

    /// Takes the cost of looking at `length` characters or elements once: a tenth each.
    pub fn charge_scan(&mut self, length: usize) -> Result<(), EvalError> {
        self.charge((length as u64).div_ceil(10))
    }

    /// One level deeper; [`Self::leave`] comes after it, also on failure.
    pub fn enter(&mut self) -> Result<(), EvalError> {
        if self.depth >= DEEPEST {
            return Err(EvalError::Cost);
        }
        self.depth += 1;
        Ok(())
    }

    /// The other half of [`Self::enter`].
    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}
