//! Why a question in SQL was not answered, in words for whoever asked.
//!
//! Owns the codes, and what of the engine's errors a tenant is told: their own mistakes in full, the store's troubles not.

use std::time::Duration;

use datafusion::{arrow::error::ArrowError, error::DataFusionError};
use lucarne_model::{
    ErrorCode,
    flow_sql::{SqlQuestion, SqlRefusal},
};

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("the question is longer than {} octets", SqlQuestion::MAX_LENGTH)]
    TooLong,
    #[error("this is not SQL that can be read: {0}")]
    Syntax(String),
    #[error("only one SELECT is answered: {0}")]
    NotAllowed(String),
    #[error("the question does not fit the table: {0}")]
    Invalid(String),
    #[error("the question needs more than {} MiB of memory; ask for less time, fewer groups or fewer columns", limit >> 20)]
    TooMuchMemory { limit: usize },
    #[error("the question took longer than {} s and was stopped; ask for less time or fewer instances", limit.as_secs_f32())]
    TooSlow { limit: Duration },
    #[error("the answer's rows are larger than {} MiB; ask for fewer or narrower ones", limit >> 20)]
    TooMuchData { limit: usize },
    #[error("too many questions are being answered; try again in some seconds")]
    Busy,
    /// The cause is for the log alone: it may name what is not the caller's.
    #[error("the records could not be read")]
    Store(#[source] DataFusionError),
    #[error("the question could not be finished")]
    Stopped,
}

impl SqlError {
    /// The stable name of the kind of refusal.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLong | Self::Syntax(_) | Self::Invalid(_) => ErrorCode::InvalidSql,
            Self::NotAllowed(_) => ErrorCode::SqlNotAllowed,
            Self::TooMuchMemory { .. } | Self::TooMuchData { .. } => ErrorCode::SqlTooLarge,
            Self::TooSlow { .. } => ErrorCode::SqlTooSlow,
            Self::Busy => ErrorCode::SqlBusy,
            Self::Store(_) | Self::Stopped => ErrorCode::SqlUnavailable,
        }
    }

    pub(super) fn of_parsing(error: DataFusionError) -> Self {
        Self::Syntax(line(error.strip_backtrace()))
    }

    pub(super) fn of_planning(error: DataFusionError) -> Self {
        match error.find_root() {
            DataFusionError::NotImplemented(what) => Self::NotAllowed(line(what.clone())),
            _ => Self::Invalid(line(error.strip_backtrace())),
        }
    }

    /// What went wrong while rows were made: too much memory, a value that cannot be computed on, or the store.
    pub(super) fn of_execution(error: DataFusionError, memory: usize) -> Self {
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::TooMuchMemory { limit: memory },
            DataFusionError::ArrowError(cause, _) => match cause.as_ref() {
                ArrowError::DivideByZero
                | ArrowError::CastError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::ParseError(_)
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::InvalidArgumentError(_) => Self::Invalid(line(cause.to_string())),
                _ => Self::Store(error),
            },
            DataFusionError::Execution(what) | DataFusionError::Plan(what) | DataFusionError::NotImplemented(what) => {
                Self::Invalid(line(what.clone()))
            }
            _ => Self::Store(error),
        }
    }
}

impl From<&SqlError> for SqlRefusal {
    fn from(error: &SqlError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// One line, not too long.
fn line(text: impl AsRef<str>) -> String {
    text.as_ref().split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}
