//! Bearer tokens of all sorts: from the file, bootstrap tokens, ServiceAccounts' tokens. Says whose a token is and
//! whether what it speaks for still exists.

use balsa_api::status::ApiError;
use k8s_openapi::jiff::Timestamp;

use super::static_tokens::StaticTokens;
use super::token::Verified;
use super::{Caller, bootstrap_token};
use crate::pipeline::{Api, Target};
use crate::value;

/// Which tokens besides those of ServiceAccounts are taken, and what all of them are good for.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// From `--token-auth-file`.
    pub fixed: StaticTokens,
    /// Whether Secrets of kube-system are looked at for bootstrap tokens.
    pub bootstrap: bool,
    /// Audiences of this API; the issuer where none is named.
    pub audiences: Vec<String>,
}

/// A token that is good, for these of the audiences that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub caller: Caller,
    /// For whom it is meant.
    pub audiences: Vec<String>,
}

/// Seconds that an object which is being deleted still speaks for its tokens, so that what ends with it can end well.
const DELETION_LEEWAY: i64 = 60;

impl Api {
    /// For whom tokens are meant that are shown to this API.
    pub fn audiences(&self) -> Vec<String> {
        if self.tokens.audiences.is_empty() { vec![self.signer.issuer().to_owned()] } else { self.tokens.audiences.clone() }
    }

    /// Whose token it is. The error says what is wrong, never what the token holds.
    pub async fn verify_bearer(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Shown, String> {
        let own = || -> Vec<String> { self.audiences().into_iter().filter(|own| audiences.contains(own)).collect() };
        if let Some(caller) = self.tokens.fixed.caller(token) {
            return meant(caller.clone(), own(), audiences);
        }
        if self.tokens.bootstrap
            && let Some((id, secret)) = bootstrap_token::split(token)
        {
            let caller = self.verify_bootstrap(id, secret, now).await?;
            return meant(caller, own(), audiences);
        }
        let verified = self.verify_token(token, audiences, now).await?;
        Ok(Shown { caller: verified.caller(), audiences: verified.audiences })
    }

    async fn verify_bootstrap(&self, id: &str, secret: &str, now: Timestamp) -> Result<Caller, String> {
        let kind = balsa_api::kinds::find("", "v1", "secrets").ok_or("secrets are not served")?;
        let name = bootstrap_token::secret_name(id);
        let found = self.lookup(Target { kind, namespace: "kube-system", name: &name }).await;
        match found.map_err(|error: ApiError| error.message)? {
            Some(found) => bootstrap_token::caller(&found.value, id, secret, now),
            None => Err(format!("bootstrap token {id} does not exist")),
        }
    }

    /// Checks a ServiceAccount's token and that what it speaks for and is bound to still exists.
    pub async fn verify_token(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, String> {
        let verified = self.signer.verify(token, audiences, now.as_second())?;
        let subject = &verified.subject;
        let account = (subject.name.clone(), subject.uid.clone());
        let namespace = subject.namespace.as_str();
        self.still_exists("serviceaccounts", namespace, Some(&account), now).await?;
        self.still_exists("pods", namespace, subject.bound.pod.as_ref(), now).await?;
        self.still_exists("secrets", namespace, subject.bound.secret.as_ref(), now).await?;
        if subject.bound.pod.is_none() {
            self.still_exists("nodes", "", subject.bound.node.as_ref(), now).await?;
        }
        Ok(verified)
    }

    async fn still_exists(
        &self,
        plural: &str,
        namespace: &str,
        object: Option<&(String, String)>,
        now: Timestamp,
    ) -> Result<(), String> {
        let Some((name, uid)) = object else { return Ok(()) };
        let Some(kind) = balsa_api::kinds::find("", "v1", plural) else { return Ok(()) };
        let target = Target { kind, namespace, name };
        let mut found = self.lookup(target).await.map_err(|error| error.message)?;
        // Made anew under the same name: what the cache has may be the one before.
        if found.as_ref().is_some_and(|found| value::uid(&found.value) != uid) {
            found = self.fetch(target).await.map_err(|error| error.message)?;
        }
        let gone = || Err(format!("what the token is bound to is gone: {plural} {name:?}"));
        let Some(found) = found.filter(|found| value::uid(&found.value) == uid) else { return gone() };
        match value::text(&found.value, "/metadata/deletionTimestamp").parse::<Timestamp>() {
            Ok(at) if at.as_second() + DELETION_LEEWAY < now.as_second() => gone(),
            _ => Ok(()),
        }
    }
}

fn meant(caller: Caller, audiences: Vec<String>, wanted: &[String]) -> Result<Shown, String> {
    if audiences.is_empty() {
        return Err(format!("the token is not meant for the audiences {wanted:?}"));
    }
    Ok(Shown { caller, audiences })
}
