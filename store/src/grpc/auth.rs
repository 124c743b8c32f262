//! The Auth service: users, roles, permissions, logging in. What they mean is decided in [`crate::ledger::auth`].
//!
//! Passwords leave this file only as bcrypt; neither they nor tokens are ever logged.

use balsa_proto::etcd::etcdserverpb::auth_server::Auth;
use balsa_proto::etcd::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
    AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use balsa_proto::store::{AuthChange, Login, auth_change::Change};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use tonic::{Request, Response, Status};

use super::Service;
use super::calls::Method;
use crate::command::Command;
use crate::error::Refusal;
use crate::jwt;
use crate::ledger::Ledger;

/// Characters of a token: more than anybody can try.
const TOKEN_LENGTH: usize = 32;
/// How often a login is tried again because users changed in between.
const ATTEMPTS: usize = 8;

impl Service {
    /// Proposes a change; only root may, while auth is enabled.
    async fn change<T>(&self, request: Request<T>, change: impl FnOnce(T) -> Change) -> Result<Option<ResponseHeader>, Status> {
        let caller = self.caller(&request).await?;
        let change = AuthChange { change: Some(change(request.into_inner())) };
        let outcome = self.write(&caller, Command::Auth(change)).await?;
        self.done(outcome)
    }

    /// Looks something up in what is agreed on; `permitted` for who is not root says whether it may.
    async fn look_up<T, A>(
        &self,
        request: &Request<T>,
        permitted: impl FnOnce(&Ledger, &str) -> bool,
        look: impl FnOnce(&Ledger) -> Result<A, Refusal>,
    ) -> Result<(Option<ResponseHeader>, A), Status> {
        let caller = self.caller(request).await?;
        self.replica.linearize().await?;
        let ledger = self.replica.applied().ledger();
        if let Err(refusal) = ledger.auth.admin(caller.as_ref())
            && !caller.as_ref().is_some_and(|who| permitted(&ledger, &who.user))
        {
            return Err(refusal.into());
        }
        Ok((Some(self.replica.header_now()), look(&ledger)?))
    }

    async fn hash(&self, password: String) -> Result<String, Status> {
        let cost = self.replica.config().bcrypt_cost;
        let hashed = tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(password, cost)).await;
        let hashed = hashed.map_err(|error| Status::internal(error.to_string()))?;
        let hashed = hashed.map_err(|error| Status::invalid_argument(format!("the password cannot be used: {error}")))?;
        Ok(STANDARD.encode(hashed))
    }

    async fn login(&self, name: &str, password: String) -> Result<(Option<ResponseHeader>, String), Status> {
        self.replica.linearize().await?;
        for _ in 0..ATTEMPTS {
            let (hashed, revision) = self.replica.applied().ledger().auth.password_of(name)?;
            let hashed = String::from_utf8(hashed.to_vec()).map_err(|_| Refusal::AuthFailed)?;
            let tried = password.clone();
            let matches = tokio::task::spawn_blocking(move || bcrypt::verify(tried, &hashed)).await;
            if !matches!(matches, Ok(Ok(true))) {
                tracing::info!(user = name, "a login was refused");
                return Err(Refusal::AuthFailed.into());
            }
            if let Some(signer) = &self.signer {
                // Nobody has to be told; if users have changed since, the token is refused where it is used.
                let token = signer.sign(name, revision, jwt::now())?;
                return Ok((Some(self.replica.header_now()), token));
            }
            let token: String = rand::rng().sample_iter(Alphanumeric).take(TOKEN_LENGTH).map(char::from).collect();
            let login = Login { user: name.to_owned(), token: token.clone(), revision };
            let change = AuthChange { change: Some(Change::Login(login)) };
            match self.replica.propose(Command::Auth(change)).await {
                Ok(outcome) => return Ok((self.done(outcome)?, token)),
                // Users changed since the password was checked: once more.
                Err(status) if status.message() == Refusal::AuthOldRevision.to_string() => {
                    self.replica.linearize().await?;
                }
                Err(status) => return Err(status),
            }
        }
        Err(Refusal::AuthOldRevision.into())
    }
}

#[tonic::async_trait]
impl Auth for Service {
    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        self.call(Method::AuthEnable, async {
            Ok(AuthEnableResponse { header: self.change(request, Change::Enable).await? })
        })
        .await
    }

    async fn auth_disable(&self, request: Request<AuthDisableRequest>) -> Result<Response<AuthDisableResponse>, Status> {
        self.call(Method::AuthDisable, async {
            Ok(AuthDisableResponse { header: self.change(request, Change::Disable).await? })
        })
        .await
    }

    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        self.call(Method::AuthStatus, async {
            let (header, auth) = self.look_up(&request, |_, _| false, |ledger| Ok(ledger.auth.clone())).await?;
            Ok(AuthStatusResponse { header, enabled: auth.is_enabled(), auth_revision: auth.revision() })
        })
        .await
    }

    async fn authenticate(&self, request: Request<AuthenticateRequest>) -> Result<Response<AuthenticateResponse>, Status> {
        self.call(Method::Authenticate, async {
            let AuthenticateRequest { name, password } = request.into_inner();
            let (header, token) = self.login(&name, password).await?;
            Ok(AuthenticateResponse { header, token })
        })
        .await
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Result<Response<AuthUserAddResponse>, Status> {
        self.call(Method::UserAdd, async {
            let mut request = request;
            let asked = request.get_mut();
            let password = std::mem::take(&mut asked.password);
            if !asked.options.is_some_and(|options| options.no_password) {
                asked.hashed_password = self.hash(password).await?;
            }
            Ok(AuthUserAddResponse { header: self.change(request, Change::UserAdd).await? })
        })
        .await
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        self.call(Method::UserChangePassword, async {
            let mut request = request;
            let asked = request.get_mut();
            asked.hashed_password = self.hash(std::mem::take(&mut asked.password)).await?;
            Ok(AuthUserChangePasswordResponse { header: self.change(request, Change::UserChangePassword).await? })
        })
        .await
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        self.call(Method::UserGet, async {
            let name = &request.get_ref().name;
            let (header, roles) =
                self.look_up(&request, |_, user| user == name, |ledger| ledger.auth.user(name)).await?;
            Ok(AuthUserGetResponse { header, roles })
        })
        .await
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        self.call(Method::UserList, async {
            let (header, users) = self.look_up(&request, |_, _| false, |ledger| Ok(ledger.auth.users())).await?;
            Ok(AuthUserListResponse { header, users })
        })
        .await
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        self.call(Method::RoleGet, async {
            let role = &request.get_ref().role;
            let permitted = |ledger: &Ledger, user: &str| ledger.auth.has_role(user, role);
            let (header, perm) = self.look_up(&request, permitted, |ledger| ledger.auth.role(role)).await?;
            Ok(AuthRoleGetResponse { header, perm })
        })
        .await
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        self.call(Method::RoleList, async {
            let (header, roles) = self.look_up(&request, |_, _| false, |ledger| Ok(ledger.auth.roles())).await?;
            Ok(AuthRoleListResponse { header, roles })
        })
        .await
    }

    async fn user_delete(&self, request: Request<AuthUserDeleteRequest>) -> Result<Response<AuthUserDeleteResponse>, Status> {
        self.call(Method::UserDelete, async {
            Ok(AuthUserDeleteResponse { header: self.change(request, Change::UserDelete).await? })
        })
        .await
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        self.call(Method::UserGrantRole, async {
            Ok(AuthUserGrantRoleResponse { header: self.change(request, Change::UserGrantRole).await? })
        })
        .await
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        self.call(Method::UserRevokeRole, async {
            Ok(AuthUserRevokeRoleResponse { header: self.change(request, Change::UserRevokeRole).await? })
        })
        .await
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Result<Response<AuthRoleAddResponse>, Status> {
        self.call(Method::RoleAdd, async {
            Ok(AuthRoleAddResponse { header: self.change(request, Change::RoleAdd).await? })
        })
        .await
    }

    async fn role_delete(&self, request: Request<AuthRoleDeleteRequest>) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        self.call(Method::RoleDelete, async {
            Ok(AuthRoleDeleteResponse { header: self.change(request, Change::RoleDelete).await? })
        })
        .await
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        self.call(Method::RoleGrantPermission, async {
            Ok(AuthRoleGrantPermissionResponse { header: self.change(request, Change::RoleGrantPermission).await? })
        })
        .await
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        self.call(Method::RoleRevokePermission, async {
            Ok(AuthRoleRevokePermissionResponse { header: self.change(request, Change::RoleRevokePermission).await? })
        })
        .await
    }
}
