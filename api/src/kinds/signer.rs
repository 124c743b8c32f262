//! The name of a signer of certificates, as several kinds carry it: `example.com/path`.

use crate::cursor::At;
use crate::field::FieldError;
use crate::validate::text::{label_problems, subdomain_problems};

/// The domain's and a namespace's length, and the dot between them.
const MAX_PATH: usize = 253 + 63 + 1;

/// What is wrong with a signer's name that is there.
pub fn problems(at: &At<'_>) -> Vec<FieldError> {
    let parts: Vec<&str> = at.str().split('/').collect();
    let [domain, path] = parts.as_slice() else {
        return vec![at.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'")];
    };
    let mut findings = Vec::new();
    if domain.len() > 253 {
        findings.push(FieldError::too_long(at.path.clone(), 253));
    }
    let labels: Vec<&str> = domain.split('.').collect();
    findings.extend(first_bad(at, domain, &labels, label_problems));
    if labels.len() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        findings.push(FieldError::invalid(at.path.clone(), *domain, detail));
    }
    let labels: Vec<&str> = path.split('.').collect();
    findings.extend(first_bad(at, path, &labels, subdomain_problems));
    if path.len() > MAX_PATH {
        findings.push(FieldError::too_long(at.path.clone(), MAX_PATH));
    }
    findings
}

/// The problems of the first label that has any: those of the others would read the same.
fn first_bad(at: &At<'_>, whole: &str, labels: &[&str], check: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let found = labels.iter().map(|label| (label, check(label))).find(|(_, problems)| !problems.is_empty());
    let (label, problems) = found.unwrap_or((&"", Vec::new()));
    let finding = |problem: &String| FieldError::invalid(at.path.clone(), whole, &format!("validating label {label:?}: {problem}"));
    problems.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn signers_are_a_domain_and_a_path() {
        let count = |name: &str| problems(&At::new("spec.signerName", &json!(name))).len();
        assert_eq!(count("example.com/e2e-certificates-1"), 0);
        assert_eq!([count("example.com"), count("example/x"), count("example.com/"), count("a.b/c/d")], [1, 1, 1, 1]);
    }
}
