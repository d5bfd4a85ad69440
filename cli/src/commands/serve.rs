//! `xplore serve`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use serve::Settings;

use crate::commands::model::Source;
use crate::failure::Failure;

/// What is served, and where.
#[derive(clap::Args)]
pub struct Place {
    #[command(flatten)]
    source: Source,
    /// Address to listen on; 0.0.0.0 is all of this machine's.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// The model's name for clients. Default: the folder's name.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Requests accepted beyond --max-rows; more are answered 429.
    #[arg(long, default_value_t = 1024)]
    max_queue: usize,
    /// Clients must send this as bearer token. Also read from XPLORE_API_KEY, which other users of the machine cannot see.
    #[arg(long, env = "XPLORE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

/// Runs the command until the process is told to stop.
pub fn run(place: Place) -> Result<(), Failure> {
    let model = place.source.load()?;
    let name = place.served_model_name.unwrap_or_else(|| place.source.name());
    let settings = Settings { model: name.clone(), max_queue: place.max_queue, api_key: place.api_key };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::environment(format!("cannot start the server's threads: {e}")))?;
    let ready = |address: SocketAddr| eprintln!("serving {name} at http://{address}/v1");
    let stop = async {
        while !trainer::run::STOP.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let address = SocketAddr::new(place.host, place.port);
    runtime.block_on(serve::run(model, settings, address, ready, stop))?;
    Ok(())
}
