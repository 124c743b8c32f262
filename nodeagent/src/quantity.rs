//! Amounts in the whole numbers that the node counts in. The format itself is `balsa_api::quantity`'s.

use std::collections::BTreeMap;

use balsa_api::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// In thousandths, rounded up; `None` where the text is no amount.
pub fn milli(text: &str) -> Option<i64> {
    text.parse::<Quantity>().ok().map(|quantity| quantity.millis())
}

/// In whole units, rounded up; `None` where the text is no amount.
pub fn whole(text: &str) -> Option<i64> {
    text.parse::<Quantity>().ok().map(|quantity| quantity.units())
}

/// One resource of a list, in thousandths.
pub fn milli_of(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Option<i64> {
    list.and_then(|list| list.get(resource)).and_then(|text| milli(&text.0))
}

/// One resource of a list, in whole units.
pub fn whole_of(list: Option<&BTreeMap<String, Text>>, resource: &str) -> Option<i64> {
    list.and_then(|list| list.get(resource)).and_then(|text| whole(&text.0))
}
