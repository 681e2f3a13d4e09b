//! The pages for people and their scripts: one file for each URL of `bin/user`, except [`power`],
//! which serves three.
//!
//! A page reads its fields, has a lower layer do the work, and shows the outcome. No page depends
//! on another. Shared code is in [`access`] (who may do what), [`target`] (the machine that a
//! request is about), [`naming`] (names of images), [`once`] (idempotent orders), [`unchanged`]
//! (conditional requests) and [`view`] (what pages show).

pub mod access;
pub mod admin;
pub mod console;
pub mod deploy;
pub mod extend;
pub mod history;
pub mod images;
pub mod list;
pub mod naming;
pub mod once;
pub mod power;
pub mod resize;
pub mod save;
pub mod show;
pub mod snapshots;
pub mod target;
pub mod terminate;
pub mod unchanged;
pub mod view;
