//! What people and their scripts ask for: one file a URL of `bin/user`, but for [`power`], which has three.
//!
//! A page reads its fields, has a room below do the work, and shows what became of it. No page knows another. What they
//! share is in [`access`] (who may do what), [`target`] (which machine is meant), [`naming`] (what an image is called), [`once`]
//! (an order that comes twice), [`unchanged`] (a page that is asked for again and again) and [`view`] (what pages show).

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
pub mod save;
pub mod show;
pub mod target;
pub mod terminate;
pub mod unchanged;
pub mod view;
