//! The one thread on which requests to the store run, so that whoever waits for one may be on any thread: one that answers
//! questions, one that merges parts, or one that is itself a runtime's.

use std::{io, pin::Pin, sync::mpsc::sync_channel, thread};

use tokio::{
    runtime::Builder,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The way to that thread, which ends with the last of these. As many requests wait as there are threads that wait for them.
#[derive(Debug)]
pub(super) struct Line(UnboundedSender<Work>);

impl Line {
    pub(super) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (line, mut inbox) = unbounded_channel::<Work>();
        let serve = async move {
            while let Some(work) = inbox.recv().await {
                tokio::spawn(work);
            }
        };
        thread::Builder::new().name("shelf".into()).spawn(move || runtime.block_on(serve))?;
        Ok(Self(line))
    }

    /// Has it done there, and waits for it.
    pub(super) fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let ended = || io::Error::other("the thread of the store ended");
        let (reply, answer) = sync_channel(1);
        let work = Box::pin(async move {
            // Whoever asked waits for it; there is nobody else to tell.
            let _ = reply.send(work.await);
        });
        self.0.send(work).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())
    }
}
