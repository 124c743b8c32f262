//! Functions for expressions that make JSON patches.

use crate::functions::Line;
use crate::value::Value;

pub(crate) const LINES: &[Line] = &[("jsonpatch.escapeKey", "string->string", |args| {
    Ok(Value::from(args.scanned(0)?.replace('~', "~0").replace('/', "~1")))
})];
