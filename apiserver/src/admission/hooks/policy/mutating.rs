//! MutatingAdmissionPolicy: the object becomes what the policies' mutations make of it, one after the other.

use balsa_api::kind::Kind;
use balsa_api::patch as patches;
use balsa_api::status::{ApiError, ApiResult};
use balsa_cel::{Bindings, PER_REQUEST, Value as Cel};
use serde_json::Value;

use super::compiled::{Binding, MutatingPolicy, Mutation, Policy};
use super::{params, patch};
use crate::admission::Review;
use crate::admission::hooks::conditions::all_hold;
use crate::admission::hooks::matching::Hit;
use crate::admission::hooks::request::Asked;
use crate::admission::hooks::rounds::Rounds;
use crate::admission::hooks::webhook::normal;
use crate::admission::hooks::{Around, convert, convert_back, forbidden, variables};
use crate::pipeline::Api;
use crate::value;

/// A policy with a binding and a parameter that the request is put to.
struct Invocation<'a> {
    own: &'a MutatingPolicy,
    binding: &'a Binding,
    hit: Hit,
    param: Option<Value>,
    key: String,
}

/// Something that went wrong with a policy.
struct Error {
    message: String,
    /// It was found while carrying it out, not in its configuration.
    running: bool,
}

/// Has all policies that are about the request change its object, one round.
pub async fn mutate(
    api: &Api,
    policies: &[MutatingPolicy],
    review: &Review<'_>,
    asked: &mut Asked<'_>,
    around: &Around,
    rounds: &mut Rounds,
) -> ApiResult<()> {
    let mut errors = Vec::new();
    let invocations = invocations(api, policies, asked, around, &mut errors).await;
    rounds.policies.begin(rounds.second, asked.object.as_ref());
    for invocation in &invocations {
        if let Some(changed) = run(api, invocation, review, asked, around, rounds, &mut errors).await? {
            rounds.note_policy(changed, invocation.own.again.then_some(invocation.key.as_str()));
        }
    }
    rounds.policies.end(asked.object.as_ref());
    let Some(first) = errors.first() else { return Ok(()) };
    let mut refused = forbidden(asked, "");
    refused.message.clone_from(&first.message);
    if first.running {
        refused.reason = "Invalid".to_owned();
    }
    Err(errors.iter().fold(refused, |refused: ApiError, error| refused.with_cause("", error.message.clone(), "")))
}

fn note(errors: &mut Vec<Error>, policy: &Policy, binding: Option<&Binding>, what: &str, running: bool) {
    if policy.ignore {
        return;
    }
    let message = match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {what}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {what}", policy.name),
    };
    errors.push(Error { message, running });
}

async fn invocations<'a>(
    api: &Api,
    policies: &'a [MutatingPolicy],
    asked: &Asked<'_>,
    around: &Around,
    errors: &mut Vec<Error>,
) -> Vec<Invocation<'a>> {
    let mut found = Vec::new();
    for own in policies {
        let policy = &own.policy;
        let hit = match policy.criteria.hit(asked, &around.labels, &around.equivalents) {
            Ok(Some(hit)) => hit,
            Ok(None) => continue,
            Err(error) => {
                let what = format!("failed to configure policy: {}", error.message);
                note(errors, policy, None, &what, false);
                continue;
            }
        };
        for binding in &policy.bindings {
            let matched = binding.criteria.hit(asked, &around.labels, &around.equivalents);
            let params = match matched {
                Ok(None) => continue,
                Ok(Some(_)) => params::collect(api, policy, binding, &asked.namespace).await,
                Err(error) => Err(error.message),
            };
            match params {
                Ok(params) => found.extend(params.into_iter().map(|param| {
                    let name = param.as_ref().map(|param| format!("{}/{}", value::namespace(param), value::name(param)));
                    let key = format!("{}|{}|{}", policy.name, binding.name, name.unwrap_or_default());
                    Invocation { own, binding, hit: hit.clone(), param, key }
                })),
                Err(error) => {
                    note(errors, policy, Some(binding), &format!("failed to configure binding: {error}"), false);
                }
            }
        }
    }
    found
}

/// Runs one policy. Whether it changed the object; none where it did not run.
async fn run(
    api: &Api,
    invocation: &Invocation<'_>,
    review: &Review<'_>,
    asked: &mut Asked<'_>,
    around: &Around,
    rounds: &Rounds,
    errors: &mut Vec<Error>,
) -> ApiResult<Option<bool>> {
    let policy = &invocation.own.policy;
    let param = || invocation.param.as_ref().map_or(Cel::Null, Cel::from);
    let shown = convert(api, asked, &invocation.hit).await?;
    let mut before = variables::bindings(api, &shown, &invocation.hit, None);
    before.insert("params".to_owned(), param());
    match all_hold(&policy.conditions, &before, policy.ignore) {
        Ok(true) => {}
        Ok(false) => return Ok(None),
        Err(error) => {
            note(errors, policy, Some(invocation.binding), &error, true);
            return Ok(None);
        }
    }
    if rounds.second && !rounds.policies.is_due(&invocation.key) {
        return Ok(None);
    }
    let hit = &invocation.hit.kind;
    let kind = api.kinds.find_kind(&hit.group, &hit.version, &hit.kind);
    let start = asked.object.clone();
    for mutation in &invocation.own.mutations {
        if asked.object.is_none() {
            continue;
        }
        let shown = convert(api, asked, &invocation.hit).await?;
        let mut bindings = variables::bindings(api, &shown, &invocation.hit, around.namespace.as_ref());
        bindings.insert("params".to_owned(), param());
        let bindings = variables::compose(bindings, &policy.variables);
        match mutated(mutation, &bindings, &shown, kind.as_deref()) {
            Ok(new) => {
                let new = convert_back(api, new, &shown, asked).await?;
                match normal(review.target.kind, asked, new) {
                    Ok(new) => asked.object = Some(new),
                    Err(error) => note(errors, policy, Some(invocation.binding), &error.message, true),
                }
            }
            Err(error) => note(errors, policy, Some(invocation.binding), &error, true),
        }
    }
    Ok(Some(asked.object != start))
}

/// The object after one mutation. Pure.
fn mutated(
    mutation: &Mutation,
    bindings: &Bindings,
    asked: &Asked<'_>,
    kind: Option<&(dyn Kind + 'static)>,
) -> Result<Value, String> {
    let mut left = PER_REQUEST;
    let object = asked.object.as_ref().ok_or("there is no object to change")?;
    let made = mutation.expression.evaluate(bindings, &mut left).map_err(|failure| failure.message().to_owned())?;
    if !mutation.is_json_patch {
        let kind = kind.ok_or_else(|| format!("Resource kind {} not found", asked.kind.kind))?;
        return patch::apply(object, &made, kind);
    }
    let operations = patch::json_patch(&made)?;
    match patches::json(object, &operations) {
        Ok(new) => Ok(new),
        Err(error) => {
            let cause = error.details.causes.first().map_or(error.message.clone(), |cause| cause.message.clone());
            // A test that fails means: not this object.
            if cause.contains("test failed") { Ok(object.clone()) } else { Err(format!("JSON Patch: {cause}")) }
        }
    }
}
