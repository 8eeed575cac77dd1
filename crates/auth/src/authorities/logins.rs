//! Answering logins.

use std::sync::Arc;

use posthouse_model::errors;
use posthouse_model::reply::ReplyError;

use super::{Authorities, Identity};
use crate::mechanism::{Credentials, Mechanism};
use crate::password::{self, PasswordHash};

/// Why a login was refused. The text is for the broker's log; it shows no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such mechanism, or it cannot be used.
    #[error("expected one of the mechanisms PLAIN, AMQPLAIN and ANONYMOUS, got '{0}'")]
    UnknownMechanism(String),
    /// The mechanism's response has not its form.
    #[error("malformed {0} response")]
    MalformedResponse(&'static str),
    /// Wrong user or password, or no login by password.
    #[error("user '{0}': invalid credentials")]
    InvalidCredentials(String),
    /// The user may log in from this machine only.
    #[error("user '{0}' can only connect via localhost")]
    OnlyLoopback(String),
}

impl Refusal {
    /// What is sent to a client that has the `authentication_failure_close` capability; `None` when RabbitMQ
    /// closes without a word to any client.
    pub fn reply(&self, mechanism: &str) -> Option<ReplyError> {
        match self {
            Self::UnknownMechanism(_) | Self::MalformedResponse(_) => None,
            Self::InvalidCredentials(_) | Self::OnlyLoopback(_) => Some(errors::login_refused(mechanism)),
        }
    }
}

/// What a mechanism's response asks for.
enum Login<'a> {
    As(String),
    With(Credentials<'a>),
}

impl Authorities {
    /// Answers a login at once where that is possible: the password was verified lately, none is needed, or the
    /// response is malformed. `None` means that [`Self::authenticate`] must be called.
    pub fn authenticate_cached(
        &self,
        mechanism: &str,
        response: &[u8],
        peer_is_loopback: bool,
    ) -> Option<Result<Arc<Identity>, Refusal>> {
        match self.login(mechanism, response) {
            Ok(Login::As(user)) => Some(self.admit(&user, peer_is_loopback)),
            Ok(Login::With(Credentials { user, password })) => {
                let stored = self.read().get(user).and_then(|entry| entry.user.password.clone())?;
                let known = self.verified().contains(user, &stored, password);
                known.then(|| self.admit(user, peer_is_loopback))
            }
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// Answers a login. Verifying a password takes tens of milliseconds of one core: call it on a blocking thread.
    pub fn authenticate(
        &self,
        mechanism: &str,
        response: &[u8],
        peer_is_loopback: bool,
    ) -> Result<Arc<Identity>, Refusal> {
        match self.login(mechanism, response)? {
            Login::As(user) => self.admit(&user, peer_is_loopback),
            Login::With(Credentials { user, password }) => {
                self.check_password(user, password)?;
                self.admit(user, peer_is_loopback)
            }
        }
    }

    /// Verifies a password, as `connection.update-secret` and HTTP need it. As slow as a login.
    pub fn check_password(&self, user: &str, password: &[u8]) -> Result<(), Refusal> {
        let stored = self.read().get(user).and_then(|entry| entry.user.password.clone());
        let refusal = || Refusal::InvalidCredentials(user.to_owned());
        let verified = stored.as_ref().is_some_and(|stored| stored.verify(password));
        if !verified {
            if stored.as_ref().is_none_or(PasswordHash::is_fast) || password.is_empty() {
                password::waste_time(password, self.settings.hash_cost);
            }
            return Err(refusal());
        }
        // The password may have been changed while the old one was verified.
        let current = self.read().get(user).and_then(|entry| entry.user.password.clone());
        match stored {
            Some(stored) if current.as_ref() == Some(&stored) => {
                self.verified().insert(user, &stored, password);
                Ok(())
            }
            _ => Err(refusal()),
        }
    }

    fn login<'a>(&self, mechanism: &str, response: &'a [u8]) -> Result<Login<'a>, Refusal> {
        let unknown = || Refusal::UnknownMechanism(mechanism.to_owned());
        match Mechanism::parse(mechanism).ok_or_else(unknown)? {
            Mechanism::Plain => {
                Credentials::from_plain(response).map(Login::With).ok_or(Refusal::MalformedResponse("PLAIN"))
            }
            Mechanism::AmqPlain => Credentials::from_amqplain(response)
                .map(Login::With)
                .ok_or(Refusal::MalformedResponse("AMQPLAIN")),
            Mechanism::Anonymous => self.settings.anonymous_user.clone().map(Login::As).ok_or_else(unknown),
            Mechanism::External => Err(unknown()),
        }
    }

    /// The identity of a user whose password needs no more checking.
    fn admit(&self, user: &str, peer_is_loopback: bool) -> Result<Arc<Identity>, Refusal> {
        let identity = self.identity(user).ok_or_else(|| Refusal::InvalidCredentials(user.to_owned()))?;
        if !peer_is_loopback && self.settings.loopback_users.iter().any(|known| known == user) {
            return Err(Refusal::OnlyLoopback(user.to_owned()));
        }
        Ok(identity)
    }
}
