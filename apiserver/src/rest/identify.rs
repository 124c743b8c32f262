//! Who sends a request: front proxy, client certificate, bearer token or nobody, and whom they act as.

use balsa_api::status::{ApiError, ApiResult};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use k8s_openapi::jiff::Timestamp;

use super::route::percent_decoded;
use super::{Peer, Rest, header_text};
use crate::authn::front_proxy::FrontProxy;
use crate::authn::{AUTHENTICATED, Caller, SERVICE_ACCOUNTS, UNAUTHENTICATED};
use crate::authz::rbac::Attributes;

/// A token among the WebSocket protocols that a browser offers, which can send no headers.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// What the REST port takes for an identity besides certificates and tokens.
#[derive(Default)]
pub struct Door {
    /// Whether requests without any credential are let through, as `system:anonymous`.
    pub anonymous: bool,
    /// Proxies that say who calls.
    pub proxy: Option<FrontProxy>,
}

/// Who was authenticated, and whom they act as.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose credential it was.
    pub authenticated: Caller,
    /// In whose name they act, where it is another's.
    pub acting: Option<Caller>,
}

impl Identity {
    /// Whose rights count.
    pub fn caller(&self) -> &Caller {
        self.acting.as_ref().unwrap_or(&self.authenticated)
    }
}

impl Rest {
    /// Authentication and impersonation.
    pub(super) async fn authenticate(&self, peer: Peer, request: &Parts, now: Timestamp) -> ApiResult<Caller> {
        let peer = match peer {
            Peer::Proxy(certified) => {
                if let Some(caller) = self.door.proxy.as_ref().and_then(|proxy| proxy.caller(&request.headers)) {
                    return Ok(caller);
                }
                certified.map_or(Peer::Unknown, Peer::Certified)
            }
            other => other,
        };
        match (peer, bearer(&request.headers)) {
            (Peer::Certified(caller), _) => Ok(caller),
            (_, Some(token)) => {
                let shown = self.api.verify_bearer(&token, &self.api.audiences(), now).await;
                shown.map(|shown| shown.caller).map_err(|reason| {
                    tracing::info!(reason, "a bearer token was refused");
                    ApiError::unauthorized()
                })
            }
            (Peer::Loopback, None) => Ok(Caller::loopback()),
            (_, None) if self.door.anonymous => Ok(Caller::anonymous()),
            (_, None) => Err(ApiError::unauthorized()),
        }
    }

    /// Whom the caller acts as, where the headers name somebody. 403 where the caller may not.
    pub(super) async fn impersonated(&self, caller: &Caller, headers: &HeaderMap) -> ApiResult<Option<Caller>> {
        let Some(wanted) = Wanted::read(headers)? else { return Ok(None) };
        for attributes in wanted.asks() {
            self.api.authorize(caller, &attributes).await?;
        }
        Ok(Some(wanted.caller()))
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let text = header_text(headers, header::AUTHORIZATION);
    let by_header = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if let Some((_, token)) = by_header {
        return Some(token.trim().to_owned()).filter(|token| !token.is_empty());
    }
    let protocols = header_text(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let encoded = protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL))?;
    let token = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

/// What the headers of impersonation ask for.
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, String)>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> ApiResult<Option<Self>> {
        let text = |name: &'static str| header_text(headers, HeaderName::from_static(name)).to_owned();
        let texts = headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok());
        let groups: Vec<String> = texts.map(str::to_owned).collect();
        let extra: Vec<(String, String)> = headers
            .iter()
            .filter_map(|(name, value)| {
                let key = name.as_str().strip_prefix("impersonate-extra-")?;
                Some((percent_decoded(key), value.to_str().ok()?.to_owned()))
            })
            .collect();
        let wanted = Self { user: text("impersonate-user"), uid: text("impersonate-uid"), groups, extra };
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        if wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty() {
            return Ok(None);
        }
        Err(ApiError::bad_request("requested uid, groups or extra without impersonating a user"))
    }

    fn account(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// Everything that the caller must be allowed to impersonate.
    fn asks(&self) -> Vec<Attributes> {
        let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        let mut asks = vec![match self.account() {
            Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
            None => ask("", "users", "", "", &self.user),
        }];
        asks.extend(self.groups.iter().map(|group| ask("", "groups", "", "", group)));
        let authentication = "authentication.k8s.io";
        asks.extend(self.extra.iter().map(|(key, value)| ask(authentication, "userextras", key, "", value)));
        if !self.uid.is_empty() {
            asks.push(ask(authentication, "uids", "", "", &self.uid));
        }
        asks
    }

    fn caller(self) -> Caller {
        let mut groups = self.groups.clone();
        if let (Some((namespace, _)), true) = (self.account(), groups.is_empty()) {
            groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
        }
        let has = |groups: &[String], wanted: &str| groups.iter().any(|group| group == wanted);
        if self.user == "system:anonymous" {
            if !has(&groups, UNAUTHENTICATED) {
                groups.push(UNAUTHENTICATED.to_owned());
            }
        } else if !has(&groups, AUTHENTICATED) && !has(&groups, UNAUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let mut caller = Caller { user: self.user, uid: self.uid, groups, ..Caller::default() };
        for (key, value) in self.extra {
            caller.extra.entry(key).or_default().push(value);
        }
        caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn everything_that_is_assumed_is_asked_for() {
        let wanted = Wanted::read(&headers(&[
            ("impersonate-user", "ann"), ("impersonate-group", "dev"), ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fscope", "read"),
        ]))
        .unwrap()
        .unwrap();
        let asks: Vec<String> = wanted
            .asks()
            .iter()
            .map(|ask| format!("{}/{}/{}={}", ask.group, ask.resource, ask.subresource, ask.name))
            .collect();
        let expected = [
            "/users/=ann", "/groups/=dev", "authentication.k8s.io/userextras/example.com/scope=read",
            "authentication.k8s.io/uids/=7",
        ];
        assert_eq!(asks, expected);
        let caller = wanted.caller();
        assert_eq!(caller.groups, ["dev", "system:authenticated"]);
        assert_eq!(caller.extra["example.com/scope"], ["read"]);
        let account = Wanted::read(&headers(&[("impersonate-user", "system:serviceaccount:d:sa")])).unwrap().unwrap();
        assert_eq!(account.caller().groups, ["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"]);
        assert!(Wanted::read(&headers(&[])).unwrap().is_none());
        assert!(Wanted::read(&headers(&[("impersonate-uid", "7")])).is_err());
    }

    #[test]
    fn tokens_come_by_header_or_by_protocol() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer x.y")])).as_deref(), Some("x.y"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic x")])), None);
        let protocol = format!("v4.channel.k8s.io, {PROTOCOL}{}", URL_SAFE_NO_PAD.encode("x.y"));
        assert_eq!(bearer(&headers(&[("sec-websocket-protocol", &protocol)])).as_deref(), Some("x.y"));
        assert_eq!(bearer(&headers(&[("sec-websocket-protocol", &format!("{PROTOCOL}%%"))])), None);
    }
}
