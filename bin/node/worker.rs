//! `vgrid-worker VERB ID`: carries out one order. Started by the node's CGI programs; see
//! [`vgrid::node::worker`].

fn main() -> std::process::ExitCode {
    vgrid::node::worker::main()
}
