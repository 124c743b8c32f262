//! CertificateSigningRequest: somebody asks for a certificate, somebody approves, somebody signs. Each of the three may
//! change its own part only. Rules and words as in Kubernetes' `pkg/apis/certificates/validation`.
//!
//! Who asked, and when a condition changed, is filled in by the API server before these rules are asked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use super::definition::{Definition, NAME, PLAIN, column, names, status_of};
use super::show;
use crate::cursor::{At, find, list, text};
use crate::field::FieldError;
use crate::kind::{Part, Subresource};
use crate::validate::meta::NameRule;
use crate::validate::{needed, unique};

type Findings = Vec<FieldError>;

const GROUP: &str = "certificates.k8s.io";
const USAGES: &[&str] = &[
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only",
    "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement",
    "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping",
];

/// CertificateSigningRequest.
pub static CERTIFICATE_SIGNING_REQUEST: Definition = Definition {
    names: names!(
        "certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest",
        ["csr"], []
    ),
    namespaced: false,
    subresources: &[
        Subresource {
            name: "approval",
            group: GROUP,
            version: "v1",
            kind: "CertificateSigningRequest",
            verbs: &["get", "patch", "update"],
        },
        status_of(GROUP, "v1", "CertificateSigningRequest"),
    ],
    name_rule: NameRule::Any,
    status: true,
    prepare_update,
    validate_create_only: |object| request(object, None),
    validate_update,
    columns: &[
        NAME,
        column("Age"),
        column("SignerName"),
        column("Requestor"),
        column("RequestedDuration"),
        column("Condition"),
    ],
    cells,
    fields: &["spec.signerName"],
    ..PLAIN
};

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let duration = find(object, "spec.expirationSeconds").as_i64().map(crate::duration::human);
    vec![
        show::name(object),
        show::age(object, now),
        show::or_none(text(object, "spec.signerName")),
        text(object, "spec.username").into(),
        show::or_none(duration.as_deref().unwrap_or_default()),
        state(object).into(),
    ]
}

fn of_type<'a>(object: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(object, "status.conditions").iter().filter(move |condition| text(condition, "type") == kind)
}

fn has(object: &Value, kind: &str) -> bool {
    of_type(object, kind).next().is_some()
}

/// `Approved,Issued`
fn state(object: &Value) -> String {
    let mut state = if has(object, "Denied") {
        "Denied".to_owned()
    } else if has(object, "Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has(object, "Failed") {
        state.push_str(",Failed");
    }
    if !text(object, "status.certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

/// The specification stays; `/approval` changes conditions only, `/status` everything but approval and denial.
fn prepare_update(new: &mut Value, old: &Value, part: Part<'_>) {
    new["spec"] = find(old, "spec").clone();
    match part {
        Part::Main => {}
        Part::Status => keep_instances(new, old),
        Part::Other(_) => {
            let conditions = find(new, "status.conditions").clone();
            let mut status = find(old, "status").clone();
            if !status.is_object() {
                status = json!({});
            }
            if let Value::Object(status) = &mut status {
                if conditions.is_null() {
                    status.remove("conditions");
                } else {
                    status.insert("conditions".to_owned(), conditions);
                }
            }
            new["status"] = status;
        }
    }
}

/// As many approvals and denials as before: they are those of before.
fn keep_instances(new: &mut Value, old: &Value) {
    for kind in ["Approved", "Denied"] {
        let before: Vec<Value> = of_type(old, kind).cloned().collect();
        let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
        let now: Vec<&mut Value> = conditions.iter_mut().filter(|condition| text(condition, "type") == kind).collect();
        if now.len() == before.len() {
            now.into_iter().zip(before).for_each(|(slot, condition)| *slot = condition);
        }
    }
}

fn validate_update(new: &Value, old: &Value, part: Part<'_>) -> Findings {
    let mut findings = request(new, Some(old));
    let at = At::root(new).at("status.conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of_type(new, kind).count() < of_type(old, kind).count() {
            findings.push(at.forbidden(&format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    if !matches!(part, Part::Other(_)) {
        for kind in ["Approved", "Denied"] {
            let (before, after): (Vec<&Value>, Vec<&Value>) = (of_type(old, kind).collect(), of_type(new, kind).collect());
            if after.len() > before.len() {
                findings.push(at.forbidden(&format!("updates may not add a condition of type {kind:?}")));
            } else if after.len() == before.len() && after != before {
                findings.push(at.forbidden(&format!("updates may not modify a condition of type {kind:?}")));
            }
        }
    }
    let (before, after) = (text(old, "status.certificate"), text(new, "status.certificate"));
    if before != after {
        let at = At::root(new).at("status.certificate");
        if part != Part::Status {
            findings.push(at.forbidden("updates may not set certificate content"));
        } else if !before.is_empty() {
            findings.push(at.forbidden("updates may not modify existing certificate content"));
        }
    }
    findings
}

/// What is wrong with a request; what was wrong before is not complained about again.
fn request(object: &Value, old: Option<&Value>) -> Findings {
    let spec = At::root(object).get("spec");
    let mut findings = Vec::new();
    if old.is_none() {
        if let Err(problem) = parse(spec.get("request").str()) {
            findings.push(spec.get("request").invalid(&problem));
        }
        usages(&mut findings, &spec.get("usages"));
        signer(&mut findings, &spec.get("signerName"));
        let seconds = spec.get("expirationSeconds");
        if seconds.int().is_some_and(|seconds| seconds < 600) {
            findings.push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
        }
    }
    let unchanged = old.is_some_and(|old| find(old, "status.conditions") == find(object, "status.conditions"));
    if !unchanged {
        conditions(&mut findings, &At::root(object).at("status.conditions"));
    }
    let certificate = text(object, "status.certificate");
    if old.is_none_or(|old| text(old, "status.certificate") != certificate) {
        if let Err(problem) = certificates(certificate) {
            findings.push(FieldError::invalid("status.certificate", "<certificate data>", &problem));
        }
    }
    findings
}

fn usages(findings: &mut Findings, at: &At<'_>) {
    needed(findings, at);
    for usage in at.items() {
        if !USAGES.contains(&usage.str()) {
            findings.push(usage.not_supported(USAGES));
        }
    }
    unique(findings, at, |usage| usage.str().to_owned());
}

fn conditions(findings: &mut Findings, at: &At<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        needed(findings, &kind);
        let always = matches!(kind.str(), "Approved" | "Denied" | "Failed");
        let known: &[&str] = if always { &["True"] } else { &["False", "True", "Unknown"] };
        if needed(findings, &status) && !known.contains(&status.str()) {
            findings.push(status.not_supported(known));
        }
        let other = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && seen.contains(&other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            findings.push(FieldError::invalid(at.path.clone(), kind.str(), detail));
        }
        if seen.contains(&kind.str()) {
            findings.push(kind.duplicate());
        }
        seen.push(kind.str());
    }
}

/// The name of a signer: `example.com/path`.
fn signer(findings: &mut Findings, at: &At<'_>) {
    if !needed(findings, at) {
        return;
    }
    if at.str() == "kubernetes.io/legacy-unknown" {
        findings.push(at.invalid("the legacy signerName is not allowed via this API version"));
        return;
    }
    findings.extend(super::signer::problems(at));
}

fn pem(base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| error.to_string())
}

/// The requested subject's organizations, where the request can be read.
pub fn organizations(base64: &str) -> Result<Vec<String>, String> {
    let block = request_block(base64)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| format!("asn1: {error}"))?;
    let organizations = request.certification_request_info.subject.iter_organization();
    Ok(organizations.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect())
}

fn request_block(base64: &str) -> Result<Pem, String> {
    let bytes = pem(base64)?;
    let block = Pem::iter_from_buffer(&bytes).next().and_then(Result::ok);
    let wrong = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    block.filter(|block| block.label == "CERTIFICATE REQUEST").ok_or_else(wrong)
}

/// Whether the text is a signing request that its own key has signed.
fn parse(base64: &str) -> Result<(), String> {
    let block = request_block(base64)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| format!("asn1: {error}"))?;
    request.verify_signature().map_err(|_| "x509: the signature of the request does not fit its public key".to_owned())
}

/// Certificates in PEM, and nothing else.
fn certificates(base64: &str) -> Result<(), String> {
    if base64.is_empty() {
        return Ok(());
    }
    let bytes = pem(base64)?;
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&bytes) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        block.parse_x509().map_err(|error| format!("x509: malformed certificate: {error}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind as _;

    /// A request for CN=web,O=system:masters with an EC key, made by OpenSSL.
    const REQUEST: &str = include_str!("certificates/request.pem");

    fn texts(findings: &[FieldError]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    fn request() -> Value {
        json!({"metadata": {"name": "R.1:x"}, "spec": {"request": STANDARD.encode(REQUEST), "signerName": "example.com/a",
            "usages": ["client auth"]}, "status": {}})
    }

    #[test]
    fn requests_are_read() {
        assert_eq!(texts(&CERTIFICATE_SIGNING_REQUEST.validate_create(&request())), Vec::<String>::new());
        assert_eq!(organizations(&STANDARD.encode(REQUEST)).unwrap(), ["system:masters"]);
        let mut wrong = request();
        wrong["spec"] = json!({"request": STANDARD.encode("x"), "signerName": "a", "usages": ["x", "x"], "expirationSeconds": 5});
        assert_eq!(texts(&CERTIFICATE_SIGNING_REQUEST.validate_create(&wrong)).len(), 6);
        let mut forged = request();
        let bytes = REQUEST.replacen("4cxe2X/", "4cxe2Y/", 1);
        forged["spec"]["request"] = json!(STANDARD.encode(bytes));
        assert_eq!(CERTIFICATE_SIGNING_REQUEST.validate_create(&forged).len(), 1);
    }

    #[test]
    fn each_part_changes_its_own() {
        let kind = &CERTIFICATE_SIGNING_REQUEST;
        let approved = json!([{"type": "Approved", "status": "True", "reason": "r"}]);
        let change = |old: &Value, part: Part<'_>, status: Value| {
            let mut new = old.clone();
            new["status"] = status;
            new["spec"]["signerName"] = json!("other.com/b");
            kind.prepare_update(&mut new, old, part);
            assert_eq!(new["spec"], old["spec"]);
            (texts(&kind.validate_update(&new, old, part)), new)
        };
        let old = request();
        let (findings, new) = change(&old, Part::Other("approval"), json!({"conditions": approved, "certificate": "eA=="}));
        assert!(findings.is_empty() && new["status"].get("certificate").is_none(), "{findings:?}");
        assert_eq!(state(&new), "Approved");
        assert_eq!(
            change(&old, Part::Status, json!({"conditions": approved})).0,
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(
            change(&new, Part::Other("approval"), json!({})).0,
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let both = json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]);
        assert_eq!(
            change(&old, Part::Other("approval"), json!({"conditions": both})).0,
            ["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]
        );
        let (findings, _) = change(&old, Part::Status, json!({"certificate": "eA=="}));
        assert_eq!(findings, ["status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"]);
    }
}
