//! Signed tokens over the wire.

use std::path::Path;

use balsa_proto::etcd::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest,
};
use balsa_store::Config;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tonic::{Code, Request, Status};

use crate::support::{Client, Cluster, eventually, single};

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request
}

fn put() -> PutRequest {
    PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }
}

/// Writes a pair of keys; the flag that names them.
fn flag(dir: &Path, name: &str, more: &str) -> String {
    let pair = rcgen::KeyPair::generate().unwrap();
    let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
    std::fs::write(&private, pair.serialize_pem()).unwrap();
    std::fs::write(&public, pair.public_key_pem()).unwrap();
    format!("jwt,pub-key={},priv-key={},sign-method=ES256{more}", public.display(), private.display())
}

async fn root(client: &mut Client) {
    let user = AuthUserAddRequest { name: "root".to_owned(), password: "top".to_owned(), ..Default::default() };
    client.auth.user_add(user).await.unwrap();
    let role = AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.auth.user_grant_role(role).await.unwrap();
    client.auth.auth_enable(AuthEnableRequest {}).await.unwrap();
}

async fn login(client: &mut Client) -> Result<String, Status> {
    let request = AuthenticateRequest { name: "root".to_owned(), password: "top".to_owned() };
    Ok(client.auth.authenticate(request).await?.into_inner().token)
}

/// A token of our own making.
fn forged(key: &Path, claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_ec_pem(&std::fs::read(key).unwrap()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_count_at_every_member_until_users_change_or_time_is_up() {
    let keys = tempfile::tempdir().unwrap();
    let auth_token = flag(keys.path(), "a", ",ttl=10m");
    flag(keys.path(), "other", "");
    let cluster = Cluster::start(|config: &mut Config| {
        config.bcrypt_cost = 4;
        config.auth_token.clone_from(&auth_token);
    })
    .await;
    cluster.leader().await;
    let mut client = Client::new(&cluster.url(0));
    eventually("the cluster is up", async || client.put("k", "v").await.ok()).await;
    root(&mut client).await;
    let token = login(&mut client).await.unwrap();
    assert_eq!(token.split('.').count(), 3, "a JWT");
    for number in 0..3 {
        let mut each = Client::new(&cluster.url(number));
        eventually("the token counts", async || each.kv.put(by(&token, put())).await.ok()).await;
    }
    let invalid = |answer: Result<_, Status>| {
        let status: Status = Result::<tonic::Response<_>, Status>::unwrap_err(answer);
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "etcdserver: invalid auth token"));
    };
    let far = 4_000_000_000_u64;
    let claims = |exp: u64| serde_json::json!({"username": "root", "revision": 100, "exp": exp});
    let mine = keys.path().join("a.key");
    client.kv.put(by(&forged(&mine, &claims(far)), put())).await.unwrap();
    invalid(client.kv.put(by(&forged(&mine, &claims(1_000)), put())).await);
    invalid(client.kv.put(by(&forged(&keys.path().join("other.key"), &claims(far)), put())).await);
    invalid(client.kv.put(by("nonsense", put())).await);
    // Users changed: who logged in before has to do it again.
    client.auth.role_add(by(&token, AuthRoleAddRequest { name: "r".to_owned() })).await.unwrap();
    let old = client.kv.put(by(&token, put())).await.unwrap_err();
    assert_eq!(old.message(), "etcdserver: revision of auth store is old");
    let token = login(&mut client).await.unwrap();
    client.kv.put(by(&token, put())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_token_expires_and_keys_that_do_not_fit_refuse_the_start() {
    let keys = tempfile::tempdir().unwrap();
    let short = flag(keys.path(), "a", ",ttl=1s");
    let (_dir, handle, mut client) = single(|config| {
        config.bcrypt_cost = 4;
        config.auth_token.clone_from(&short);
    })
    .await;
    root(&mut client).await;
    let token = eventually("a token is used in time", async || {
        let token = login(&mut client).await.ok()?;
        client.kv.put(by(&token, put())).await.is_ok().then_some(token)
    })
    .await;
    eventually("it expires", async || {
        client.kv.put(by(&token, put())).await.err().filter(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    handle.stop().await.unwrap();
    flag(keys.path(), "b", "");
    let path = |name: &str| keys.path().join(name).display().to_string();
    for (wrong, message) in [
        (format!("jwt,sign-method=ES256,priv-key={},pub-key={}", path("a.key"), path("b.pub")), "don't match"),
        ("jwt,sign-method=ES256".to_owned(), "missing key data"),
        ("jwt,sign-method=ES256,priv-key=/absent".to_owned(), "cannot read"),
        ("jwt,sign-method=none".to_owned(), "signature method"),
        ("other".to_owned(), "invalid auth options"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::single(dir.path());
        config.auth_token = wrong;
        let started = balsa_store::start(config, tokio_util::sync::CancellationToken::new()).await;
        let problem = format!("{:#}", started.err().unwrap());
        assert!(problem.contains(message), "{problem}");
    }
}

/// Keys as `openssl` writes them: RSA in both forms, and an elliptic curve in the older one.
#[test]
fn keys_of_openssl_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let words = words.replace("DIR", &dir.path().display().to_string());
        std::process::Command::new("openssl").args(words.split(' ')).output().is_ok_and(|output| output.status.success())
    };
    if !openssl("genrsa -out DIR/rsa.key 2048") {
        println!("not run: there is no openssl here");
        return;
    }
    assert!(openssl("rsa -in DIR/rsa.key -traditional -out DIR/rsa1.key") || openssl("rsa -in DIR/rsa.key -out DIR/rsa1.key"));
    assert!(openssl("rsa -in DIR/rsa.key -pubout -out DIR/rsa.pub"));
    assert!(openssl("ecparam -genkey -name prime256v1 -noout -out DIR/ec.key"));
    assert!(openssl("ec -in DIR/ec.key -pubout -out DIR/ec.pub"));
    assert!(openssl("ecparam -genkey -name secp384r1 -noout -out DIR/ec384.key"));
    for options in [
        "sign-method=RS256,priv-key=DIR/rsa.key,pub-key=DIR/rsa.pub", "sign-method=RS512,priv-key=DIR/rsa1.key",
        "sign-method=PS256,priv-key=DIR/rsa.key", "sign-method=RS256,pub-key=DIR/rsa.pub",
        "sign-method=ES256,priv-key=DIR/ec.key,pub-key=DIR/ec.pub", "sign-method=ES256,priv-key=DIR/ec.key",
        "sign-method=ES384,priv-key=DIR/ec384.key", "sign-method=HS256,priv-key=DIR/ec.pub",
    ] {
        let flag = format!("jwt,{}", options.replace("DIR", &dir.path().display().to_string()));
        let signer = balsa_store::jwt::of_flag(&flag).unwrap_or_else(|error| panic!("{options}: {error:#}")).unwrap();
        if options.contains("priv-key") {
            let token = signer.sign("alice", 4, 100).unwrap();
            assert_eq!(signer.who(&token, 100).unwrap().user, "alice", "{options}");
        }
    }
}
