//! The portal as its users meet it: the installed programs under a real Apache, with nodes that do what
//! each test wants of them; and, in `xen`, what needs a real Xen host, inside QEMU.

mod admin;
mod architecture;
mod bad_input;
mod browser;
mod certificates;
mod check;
mod config_files;
mod environment;
mod extend;
mod guest;
mod harness;
mod history;
mod images;
mod links;
mod mail;
mod node_faults;
mod node_programs;
mod once;
mod pages;
mod power;
mod proxy;
mod quotas;
mod races;
mod reports;
mod roles;
mod scripts;
mod sign_in;
mod support;
mod upkeep;
mod user_names;
mod xen;
