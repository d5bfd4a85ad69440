//! `xplore serve`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serve::ServerSettings;

use crate::commands::model::ModelArgs;
use crate::progress;
use xplore::{Error, runtime};

/// Arguments of `xplore serve`.
#[derive(clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    source: ModelArgs,
    /// Address to listen on; 0.0.0.0 listens on all addresses of this machine.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 selects a free port.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Model name for clients. Default: the folder's name.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Maximum number of queued requests beyond --max-num-seqs; further requests receive status 429.
    #[arg(long, default_value_t = 1024)]
    max_queue: usize,
    /// API key that clients must send as bearer token. Also read from XPLORE_API_KEY, which other users of the machine cannot see.
    #[arg(long, env = "XPLORE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

/// Runs the command until the process receives a stop signal.
pub fn run(args: ServeArgs) -> Result<(), Error> {
    let model = args.source.load()?;
    let name = args.served_model_name.unwrap_or_else(|| args.source.name());
    let settings = ServerSettings { model: name.clone(), max_queue: args.max_queue, api_key: args.api_key };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| Error::environment(format!("cannot start the server's threads: {e}")))?;
    let ready = |address: SocketAddr| progress::say(&format!("serving {name} at http://{address}/v1"));
    let stop = async {
        while !runtime::stop_requested() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let address = SocketAddr::new(args.host, args.port);
    runtime.block_on(serve::run(model, settings, address, ready, stop))?;
    Ok(())
}
