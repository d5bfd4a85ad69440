//! The thread that owns the model: takes requests from a channel, steps the engine, sends tokens back.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;

use lm::LocalModel;
use lm::engine::{Drawn, Engine, Request, RequestId};
use tokio::sync::mpsc::UnboundedSender;

/// What a request hears of.
#[derive(Clone, Debug)]
pub enum Event {
    /// A token of one of its samples.
    Token(Drawn),
    /// It cannot be answered, and why.
    Refused(String),
    /// The engine failed; nothing more will come.
    Failed(String),
}

enum Command {
    Submit { ticket: u64, request: Request, reply: UnboundedSender<Event> },
    Stop { ticket: u64, sample: usize },
    Cancel { ticket: u64 },
}

/// A handle to the thread.
#[derive(Clone, Debug)]
pub struct Worker {
    commands: Sender<Command>,
}

struct Open {
    ticket: u64,
    reply: UnboundedSender<Event>,
}

impl Worker {
    /// Starts the thread. It ends when every handle is gone and all requests are answered.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(model: LocalModel) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        thread::Builder::new().name("engine".into()).spawn(move || work(&model, &inbox))?;
        Ok(Self { commands })
    }

    /// Submits a request under a number of the caller's; its events go to `reply`.
    pub fn submit(&self, ticket: u64, request: Request, reply: UnboundedSender<Event>) {
        let failed = reply.clone();
        if self.commands.send(Command::Submit { ticket, request, reply }).is_err() {
            let _ = failed.send(Event::Failed("the engine has stopped; see the server's log".into()));
        }
    }

    /// Ends one sample.
    pub fn stop(&self, ticket: u64, sample: usize) {
        let _ = self.commands.send(Command::Stop { ticket, sample });
    }

    /// Forgets a request.
    pub fn cancel(&self, ticket: u64) {
        let _ = self.commands.send(Command::Cancel { ticket });
    }
}

fn work(model: &LocalModel, inbox: &Receiver<Command>) {
    let mut engine = Engine::new(&model.decoder, model.tokenizer.stop_ids(), model.limits);
    let mut open: HashMap<RequestId, Open> = HashMap::new();
    let mut ids: HashMap<u64, RequestId> = HashMap::new();
    loop {
        // Everything that has come; if there is nothing to do, the next that comes.
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
                Command::Submit { ticket, request, reply } => match engine.submit(request) {
                    Ok(id) => {
                        ids.insert(ticket, id);
                        open.insert(id, Open { ticket, reply });
                    }
                    Err(error) => {
                        let _ = reply.send(Event::Refused(error.to_string()));
                    }
                },
                Command::Stop { ticket, sample } => {
                    if let Some(&id) = ids.get(&ticket) {
                        engine.stop(id, sample);
                    }
                }
                Command::Cancel { ticket } => {
                    if let Some(id) = ids.remove(&ticket) {
                        engine.cancel(id);
                        open.remove(&id);
                    }
                }
            }
        }
        match engine.step() {
            Ok(progress) => {
                for drawn in progress.drawn {
                    let (id, gone) = match open.get(&drawn.request) {
                        Some(request) => (drawn.request, request.reply.send(Event::Token(drawn)).is_err()),
                        None => continue,
                    };
                    if gone {
                        // The client has left.
                        engine.cancel(id);
                        open.remove(&id).map(|request| ids.remove(&request.ticket));
                    }
                }
                for id in progress.done {
                    let _ = engine.take(id);
                    open.remove(&id).map(|request| ids.remove(&request.ticket));
                }
            }
            Err(error) => {
                eprintln!("the engine failed and starts anew: {error}");
                for (_, request) in open.drain() {
                    let _ = request.reply.send(Event::Failed(error.to_string()));
                }
                ids.clear();
                engine = Engine::new(&model.decoder, model.tokenizer.stop_ids(), model.limits);
            }
        }
    }
}
