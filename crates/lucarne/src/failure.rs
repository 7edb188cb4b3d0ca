//! Why a command did not succeed, how that is told, and which exit code it gives.
//!
//! Owns [`Failure`]: either the controller's own problem document or something on this side of the wire.

use std::error::Error;

use lucarne_api::Problem;
use lucarne_model::ErrorCode;
use serde_json::{Value, json};

/// What can go wrong on this side of the wire. The names are as stable as the API's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalCode {
    ConfigurationInvalid,
    CredentialsMissing,
    DemoFailed,
    FileUnreadable,
    FileUnwritable,
    ImageBuildFailed,
    Interrupted,
    NonceChanged,
    NoRandomNumbers,
    NotaryUnreachable,
    PlaintextRefused,
    ProcessFailed,
    ReceiptsBroken,
    StateDirectoryInUse,
    UnexpectedAnswer,
    WaitFailed,
    WrongUsage,
}

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Problem(Problem),
    #[error("{code:?}: {detail}")]
    Local { code: LocalCode, detail: String },
}

impl Failure {
    pub(crate) fn local(code: LocalCode, detail: impl Into<String>) -> Self {
        Self::Local { code, detail: detail.into() }
    }

    /// The whole story of an error, cause by cause.
    pub(crate) fn caused(code: LocalCode, error: &(dyn Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        Self::local(code, causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }

    pub(crate) fn problem(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::Problem(Problem::new(code, detail))
    }

    pub(crate) fn wrong_usage(detail: impl Into<String>) -> Self {
        Self::local(LocalCode::WrongUsage, detail)
    }

    /// The API's code, if the controller (or the lack of one) was the cause.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Local { .. } => None,
        }
    }

    /// 1: refused or failed. 2: wrong usage.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Local { code: LocalCode::WrongUsage, .. } => 2,
            _ => 1,
        }
    }

    /// The problem document, in the shape of the API's also where the controller was never asked.
    pub(crate) fn document(&self) -> Value {
        match self {
            Self::Problem(problem) => json!(problem),
            Self::Local { code, detail } => json!({
                "type": format!("urn:lucarne:problem:{code:?}"),
                "title": "The command failed before or after the controller was asked",
                "detail": detail,
                "code": format!("{code:?}"),
            }),
        }
    }

    /// One line for people, or the document for programs.
    pub(crate) fn told(&self, as_document: bool) -> String {
        if as_document { self.document().to_string() } else { self.to_string().replace('\n', " ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_code_first() {
        let failure = Failure::problem(ErrorCode::InvalidVpcNotFound, "no VPC\nis called so");
        assert_eq!(failure.told(false), "InvalidVpcId.NotFound: no VPC is called so");
        assert_eq!(failure.document()["status"], 404);
        let failure = Failure::local(LocalCode::CredentialsMissing, "set LUCARNE_ACCESS_KEY_ID");
        assert_eq!(failure.told(false), "CredentialsMissing: set LUCARNE_ACCESS_KEY_ID");
        assert_eq!(failure.document()["code"], "CredentialsMissing");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    #[test]
    fn an_error_is_told_with_all_its_causes_on_one_line() {
        let chain =
            Link("no kernel", Some(Box::new(Link("cannot read /boot", Some(Box::new(Link("no\nright", None)))))));
        let failure = Failure::caused(LocalCode::ImageBuildFailed, &chain);
        assert_eq!(failure.told(false), "ImageBuildFailed: no kernel: cannot read /boot: no right");
    }

    #[test]
    fn wrong_usage_gives_2_and_all_else_1() {
        assert_eq!(Failure::wrong_usage("so not").exit_code(), 2);
        assert_eq!(Failure::problem(ErrorCode::AuthFailure, "no").exit_code(), 1);
        assert_eq!(Failure::local(LocalCode::DemoFailed, "no").exit_code(), 1);
    }
}
