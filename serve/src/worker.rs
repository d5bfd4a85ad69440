//! The thread that owns the model: receives requests from a channel, steps the engine, and sends tokens back.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use lm::LocalModel;
use lm::engine::{Engine, Request, RequestId, SampledToken};
use tokio::sync::mpsc::UnboundedSender;

/// An event of a request.
#[derive(Clone, Debug)]
pub enum ReplyEvent {
    /// A token of one of its samples.
    Token(SampledToken),
    /// The request is rejected, with the reason.
    Refused(String),
    /// The engine failed; no further events follow.
    Failed(String),
}

enum WorkerCommand {
    Submit { ticket: u64, request: Request, reply: UnboundedSender<ReplyEvent> },
    Stop { ticket: u64, sample: usize },
    Cancel { ticket: u64 },
}

/// A handle to the worker thread.
#[derive(Clone, Debug)]
pub struct Worker {
    commands: Sender<WorkerCommand>,
}

struct Open {
    ticket: u64,
    reply: UnboundedSender<ReplyEvent>,
}

impl Worker {
    /// Starts the thread. It ends when every handle is dropped and all requests are answered.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be spawned.
    pub fn start(model: LocalModel) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        thread::Builder::new().name("engine".into()).spawn(move || work(&model, &inbox))?;
        Ok(Self { commands })
    }

    /// Submits a request under `ticket`, a number chosen by the caller; its events are sent to `reply`.
    pub fn submit(&self, ticket: u64, request: Request, reply: UnboundedSender<ReplyEvent>) {
        let failed = reply.clone();
        if self.commands.send(WorkerCommand::Submit { ticket, request, reply }).is_err() {
            let _ = failed.send(ReplyEvent::Failed("the engine has stopped; see the server's log".into()));
        }
    }

    /// Stops one sample.
    pub fn stop(&self, ticket: u64, sample: usize) {
        let _ = self.commands.send(WorkerCommand::Stop { ticket, sample });
    }

    /// Cancels a request.
    pub fn cancel(&self, ticket: u64) {
        let _ = self.commands.send(WorkerCommand::Cancel { ticket });
    }
}

fn work(model: &LocalModel, inbox: &Receiver<WorkerCommand>) {
    let mut engine = Engine::new(&model.decoder, model.tokenizer.stop_ids(), model.limits);
    let mut open: HashMap<RequestId, Open> = HashMap::new();
    let mut ids: HashMap<u64, RequestId> = HashMap::new();
    loop {
        // Handle all pending commands; block for the next one only if the engine is idle.
        loop {
            let command = match inbox.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) if engine.is_idle() => match inbox.recv() {
                    Ok(command) => command,
                    Err(_) => return,
                },
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) if engine.is_idle() => return,
                Err(TryRecvError::Disconnected) => break,
            };
            match command {
                WorkerCommand::Submit { ticket, request, reply } => match engine.submit(request) {
                    Ok(id) => {
                        ids.insert(ticket, id);
                        open.insert(id, Open { ticket, reply });
                    }
                    Err(error) => {
                        let _ = reply.send(ReplyEvent::Refused(error.to_string()));
                    }
                },
                WorkerCommand::Stop { ticket, sample } => {
                    if let Some(&id) = ids.get(&ticket) {
                        engine.stop(id, sample);
                    }
                }
                WorkerCommand::Cancel { ticket } => {
                    if let Some(id) = ids.remove(&ticket) {
                        engine.cancel(id);
                        open.remove(&id);
                    }
                }
            }
        }
        match engine.step() {
            Ok(output) => {
                for drawn in output.sampled {
                    let (id, gone) = match open.get(&drawn.request) {
                        Some(request) => (drawn.request, request.reply.send(ReplyEvent::Token(drawn)).is_err()),
                        None => continue,
                    };
                    if gone {
                        // The client disconnected.
                        engine.cancel(id);
                        open.remove(&id).map(|request| ids.remove(&request.ticket));
                    }
                }
                for id in output.done {
                    let _ = engine.take(id);
                    open.remove(&id).map(|request| ids.remove(&request.ticket));
                }
            }
            Err(error) => {
                tracing::error!("the engine failed; restarting it: {error}");
                for (_, request) in open.drain() {
                    let _ = request.reply.send(ReplyEvent::Failed(error.to_string()));
                }
                ids.clear();
                engine = Engine::new(&model.decoder, model.tokenizer.stop_ids(), model.limits);
            }
        }
    }
}
