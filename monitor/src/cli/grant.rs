//! `mcp-monitor grant`: rights for a while.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use hyper::Method;

use super::{
    ask::{self, Agent},
    finish,
};
use crate::{
    agent::request::{Give, Given},
    detect::parse_duration,
    event::{Grant, printable},
};

/// Gives rights to running servers for a while.
///
/// They end by themselves. Paths and addresses are written as in rule files; `deny` and the built-in
/// sets outrank what is granted, as they outrank the rules' own lists.
///
/// Examples: grant --server github --read '/srv/data/**' --for 10m; grant --list; grant --revoke 3
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    agent: Agent,
    /// To all instances of this server, and to those that begin meanwhile
    #[arg(long, value_name = "NAME", conflicts_with = "instance")]
    server: Option<String>,
    /// To one instance, see `status`
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<u32>,
    /// May be read
    #[arg(long, value_name = "PATH")]
    read: Vec<String>,
    /// May be created, changed, deleted, renamed and read
    #[arg(long, value_name = "PATH")]
    write: Vec<String>,
    /// A member of a built-in set that may be touched, read and changed alike
    #[arg(long, value_name = "PATH")]
    secret: Vec<String>,
    /// May be executed
    #[arg(long, value_name = "PATH")]
    exec: Vec<String>,
    /// May be connected and sent to: an address, a network, a host or `public`, `:PORT` behind it
    #[arg(long, value_name = "ADDRESS")]
    connect: Vec<String>,
    /// For how long: 30s, 10m, 2h, 7d at most
    #[arg(
        long = "for",
        value_name = "TIME",
        value_parser = seconds,
        required_unless_present_any = ["list", "revoke"]
    )]
    seconds: Option<u64>,
    /// Show what is granted
    #[arg(long, conflicts_with_all = GIVING)]
    list: bool,
    /// Take a grant away before its time
    #[arg(long, value_name = "ID", conflicts_with_all = GIVING, conflicts_with = "list")]
    revoke: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What only who gives says.
const GIVING: [&str; 8] =
    ["server", "instance", "read", "write", "secret", "exec", "connect", "seconds"];

fn seconds(text: &str) -> Result<u64, String> {
    match parse_duration(text) {
        Some(ms) if ms >= 1000 => Ok(ms / 1000),
        _ => Err("write a time such as 30s, 10m or 2h".to_owned()),
    }
}

/// Runs `grant`.
pub fn main(arguments: Arguments) -> ExitCode {
    finish(run(arguments))
}

fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let socket = arguments.agent.socket()?;
    if arguments.list {
        let grants: Vec<Grant> = ask::get(&socket, "/v1/grants")?;
        match arguments.json {
            true => println!("{}", serde_json::to_string(&grants)?),
            false if grants.is_empty() => println!("nothing is granted"),
            false => grants.iter().for_each(|grant| println!("{}", shown(grant))),
        }
        return Ok(0);
    }
    let json = arguments.json;
    let given: Given = match arguments.revoke {
        Some(id) => ask::request(&socket, Method::DELETE, &format!("/v1/grants/{id}"), Vec::new())?,
        None => {
            let body = serde_json::to_vec(&give(arguments)?)?;
            ask::request(&socket, Method::POST, "/v1/grants", body)?
        }
    };
    if json {
        println!("{}", serde_json::to_string(&given)?);
        return Ok(0);
    }
    println!("{}", shown(&given.grant));
    let instances: Vec<String> = given.instances.iter().map(u32::to_string).collect();
    match instances.as_slice() {
        [] => println!("no instance of it runs now"),
        all => println!("instances: {}", all.join(", ")),
    }
    Ok(0)
}

fn give(arguments: Arguments) -> anyhow::Result<Give> {
    let Arguments { server, instance, read, write, secret, exec, connect, seconds, .. } = arguments;
    if server.is_none() && instance.is_none() {
        bail!("say to whom: --server NAME or --instance INSTANCE");
    }
    let seconds = seconds.unwrap_or_default();
    Ok(Give { server, instance, seconds, read, write, allow_secret: secret, exec, connect })
}

fn shown(grant: &Grant) -> String {
    printable(&grant.to_string()).to_string()
}
