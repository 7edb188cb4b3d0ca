//! The ways to a host's office of sealed operations: through a controller, or by the socket on the host itself.
//!
//! Owns that both look the same to the commands. What an office answers is believed as far as it is signed.

use std::path::PathBuf;

use clap::Args;
use futures::StreamExt;
use lucarne_api::client::types;
use lucarne_host::LocalOffice;
use lucarne_model::{
    ErrorCode, HostId, InstanceId,
    sealing::{SealAnswer, SealHost, SealLog, SealQuestion, SealStanding},
    storage::Digest,
};
use tokio::io::AsyncReadExt;

use crate::{
    command_line::Global,
    failure::Failure,
    session::{Session, answer, byte_stream},
};

/// How long one question for what came of a request waits.
const WAIT_MILLIS: u64 = 15_000;

#[derive(Args, Clone, Debug)]
pub(crate) struct WayArgs {
    /// On the host itself, without a controller: its state folder, or the socket `seal.sock` in it
    #[arg(long, value_name = "PATH")]
    local: Option<PathBuf>,
}

impl WayArgs {
    pub(crate) fn open(&self, global: &Global) -> Result<Way, Failure> {
        match &self.local {
            Some(path) => Ok(Way::Local(LocalOffice::at(path))),
            None => Ok(Way::Controller(global.session()?)),
        }
    }
}

pub(crate) enum Way {
    Local(LocalOffice),
    Controller(Session),
}

/// Which host: nobody who is on it need say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) host: Option<HostId>,
    pub(crate) instance: Option<InstanceId>,
}

impl At {
    fn host(self) -> Result<HostId, Failure> {
        self.host.ok_or_else(|| Failure::wrong_usage("say which host, by --host"))
    }
}

impl Way {
    pub(crate) async fn submit(&self, at: At, request: Vec<u8>) -> Result<SealStanding, Failure> {
        match self {
            Self::Local(office) => standing(ask(office, SealQuestion::Submit { request: request.into() }).await?),
            Self::Controller(session) => {
                let host = at.host()?;
                session.stream(async |client| answer(client.submit_sealed_request(&host, request.clone())).await).await
            }
        }
    }

    /// What came of a request by now, after a while at most.
    pub(crate) async fn look(&self, at: At, request: &Digest) -> Result<SealStanding, Failure> {
        match self {
            Self::Local(office) => {
                let request = request.clone();
                standing(ask(office, SealQuestion::Look { request, wait_millis: WAIT_MILLIS }).await?)
            }
            Self::Controller(session) => {
                let host = at.host()?;
                session
                    .read(async |client| answer(client.get_sealed_request(request, &host, Some(WAIT_MILLIS))).await)
                    .await
            }
        }
    }

    /// Gives the result to `take`, from an octet on, as it comes.
    pub(crate) async fn fetch(
        &self,
        at: At,
        (request, from): (&Digest, u64),
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let broke_off =
            |cause: String| Failure::problem(ErrorCode::HostUnreachable, format!("the result broke off: {cause}"));
        match self {
            Self::Local(office) => {
                let question = SealQuestion::Fetch { request: request.clone(), from };
                let (answer, mut stream) = office.ask(&question).await.map_err(|error| away(&error))?;
                let SealAnswer::Result { .. } = answer else { return Err(told(&answer)) };
                let mut part = vec![0; 64 << 10];
                loop {
                    match stream.read(&mut part).await.map_err(|error| broke_off(error.to_string()))? {
                        0 => return Ok(()),
                        read => take(part.get(..read).unwrap_or_default())?,
                    }
                }
            }
            Self::Controller(session) => {
                let host = at.host()?;
                let call = async |client: lucarne_api::client::Client| {
                    byte_stream(client.get_sealed_result(request, Some(from), &host)).await
                };
                let mut parts = session.stream(call).await?.into_inner();
                while let Some(part) = parts.next().await {
                    take(&part.map_err(|error| broke_off(error.to_string()))?)?;
                }
                Ok(())
            }
        }
    }

    pub(crate) async fn forget(&self, at: At, request: &Digest) -> Result<(), Failure> {
        match self {
            Self::Local(office) => match ask(office, SealQuestion::Forget { request: request.clone() }).await? {
                SealAnswer::Forgotten => Ok(()),
                other => Err(told(&other)),
            },
            Self::Controller(session) => {
                let host = at.host()?;
                session
                    .change(async |client| answer(client.forget_sealed_request(request, &host, None, None)).await)
                    .await
            }
        }
    }

    pub(crate) async fn describe(&self, at: At) -> Result<SealHost, Failure> {
        match self {
            Self::Local(office) => match ask(office, SealQuestion::Describe).await? {
                SealAnswer::Host { host } => Ok(host),
                other => Err(told(&other)),
            },
            Self::Controller(session) => {
                session
                    .read(async |client| answer(client.get_seal_host(at.host.as_ref(), at.instance.as_ref())).await)
                    .await
            }
        }
    }

    /// Brings hosts what they are to go by: one host on the spot, or all by their controller.
    pub(crate) async fn bring_policy(&self, (policy, version): (Vec<u8>, u64)) -> Result<(), Failure> {
        match self {
            Self::Local(office) => match ask(office, SealQuestion::Policy { policy: policy.into() }).await? {
                SealAnswer::Policy { version: held } if held == version => Ok(()),
                SealAnswer::Policy { version: held } => {
                    let detail = format!("the host goes on by version {held}; its agent's log says why");
                    Err(Failure::problem(ErrorCode::SealPolicyUnusable, detail))
                }
                other => Err(told(&other)),
            },
            Self::Controller(session) => {
                let body = types::SealPolicy { policy: policy.into() };
                let publish = async |client: lucarne_api::client::Client| {
                    answer::<_, ()>(client.publish_seal_policy(None, None, &body)).await
                };
                session.change(publish).await
            }
        }
    }

    pub(crate) async fn log(&self, at: At, first: u64, seen: Option<u64>) -> Result<SealLog, Failure> {
        match self {
            Self::Local(office) => match ask(office, SealQuestion::Log { first, seen, instance: at.instance }).await? {
                SealAnswer::Log { log } => Ok(log),
                other => Err(told(&other)),
            },
            Self::Controller(session) => {
                let call = async |client: lucarne_api::client::Client| {
                    answer(client.get_seal_log(Some(first), at.host.as_ref(), at.instance.as_ref(), seen)).await
                };
                session.read(call).await
            }
        }
    }
}

async fn ask(office: &LocalOffice, question: SealQuestion) -> Result<SealAnswer, Failure> {
    office.ask(&question).await.map(|(answer, _)| answer).map_err(|error| away(&error))
}

fn away(error: &std::io::Error) -> Failure {
    Failure::problem(ErrorCode::HostUnreachable, format!("no host agent answers at its socket: {error}"))
}

fn standing(answer: SealAnswer) -> Result<SealStanding, Failure> {
    match answer {
        SealAnswer::Standing { standing } => Ok(standing),
        other => Err(told(&other)),
    }
}

/// What is no answer to the question.
fn told(answer: &SealAnswer) -> Failure {
    match answer {
        SealAnswer::Unknown => {
            Failure::problem(ErrorCode::SealResultUnreadable, "the host keeps nothing of such a request")
        }
        SealAnswer::Busy => Failure::problem(ErrorCode::SealBusy, "the host takes no more for now; nothing was taken"),
        _ => Failure::problem(ErrorCode::HostUnreachable, "the host cannot write down what it must; nothing was taken"),
    }
}
