//! `vgrid-helper VERB ARGUMENTS…`: carries out whatever requires root. Called through sudo by the
//! worker and the node's CGI programs; see [`vgrid::node::helper`].

fn main() -> std::process::ExitCode {
    vgrid::node::helper::main()
}
