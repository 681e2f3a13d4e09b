//! The tables of the registry: the current schema (`schema.sql`) and the migrations between
//! versions. A version that has shipped never changes.

/// The schema version of this program.
pub const NEWEST: u32 = 13;

/// The schema of that version, for a new registry.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The migrations, each from the version before it. Each runs in a transaction, with SQLite's
/// foreign key checks on.
pub const MIGRATIONS: [(u32, &str); 11] = [
    (1, SCHEMA_1),
    (2, SCHEMA_2),
    (3, SCHEMA_3),
    (4, SCHEMA_4),
    (5, SCHEMA_5),
    (6, SCHEMA_6),
    (9, SCHEMA_9),
    (10, SCHEMA_10),
    (11, SCHEMA_11),
    (12, SCHEMA_12),
    (13, SCHEMA_13),
];

/// Ended machines stay as `notDeployed`, for their history; the indexes that pages count with leave
/// them out. The CHECKs repeat what the types guarantee, for anyone who opens the file with another
/// program.
pub const SCHEMA_1: &str = "
CREATE TABLE user (
    canonical TEXT PRIMARY KEY NOT NULL CHECK (canonical <> ''),
    raw TEXT NOT NULL UNIQUE CHECK (raw <> ''),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE vm (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    owner TEXT NOT NULL REFERENCES user (canonical),
    virtual_host TEXT NOT NULL CHECK (virtual_host <> ''),
    physical_host TEXT NOT NULL CHECK (physical_host <> ''),
    image TEXT NOT NULL CHECK (image <> ''),
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),
    label TEXT NOT NULL,
    lease TEXT NOT NULL CHECK (lease <> ''),
    state TEXT NOT NULL CHECK
        (state IN ('deploying', 'deployed', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),
    fault TEXT,
    last_order TEXT NOT NULL CHECK (last_order IN ('deploy', 'terminate')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    deadline INTEGER CHECK ((deadline IS NOT NULL) = (state IN ('deploying', 'terminating'))),
    on_node TEXT NOT NULL CHECK (on_node IN ('no', 'maybe')),
    was_deployed INTEGER NOT NULL CHECK (was_deployed IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';

CREATE TABLE host (
    name TEXT PRIMARY KEY NOT NULL CHECK (name <> ''),
    memory_free INTEGER NOT NULL CHECK (memory_free >= 0),
    memory_total INTEGER NOT NULL CHECK (memory_total >= 0),
    disk_free INTEGER NOT NULL CHECK (disk_free >= 0),
    disk_total INTEGER NOT NULL CHECK (disk_total >= 0),
    version TEXT NOT NULL,
    common_digest TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    vm TEXT NOT NULL REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX event_vm ON event (vm);
";

/// Machines that are stopped, started and rebooted, and that wait in a queue. SQLite can't change a
/// CHECK, so the table of machines is recreated. So is the table of events: its rows refer to
/// machines, and a referenced table can't be dropped while foreign keys are checked, which can't be
/// switched off inside a transaction.
const SCHEMA_2: &str = "
ALTER TABLE vm RENAME TO old_vm;
ALTER TABLE event RENAME TO old_event;

CREATE TABLE vm (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    owner TEXT NOT NULL REFERENCES user (canonical),
    virtual_host TEXT NOT NULL CHECK (virtual_host <> ''),
    physical_host TEXT NOT NULL CHECK (physical_host <> ''),
    image TEXT NOT NULL CHECK (image <> ''),
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),
    label TEXT NOT NULL,
    lease TEXT NOT NULL CHECK (lease <> ''),
    state TEXT NOT NULL CHECK (state IN ('deploying', 'deployed', 'stopping', 'stopped', 'starting',
        'rebooting', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),
    place INTEGER CHECK (place IS NULL OR (place > 0 AND state = 'deploying')),
    fault TEXT,
    last_order TEXT NOT NULL CHECK
        (last_order IN ('deploy', 'terminate', 'stop', 'start', 'reboot')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    deadline INTEGER CHECK ((deadline IS NOT NULL) =
        (state IN ('deploying', 'stopping', 'starting', 'rebooting', 'terminating'))),
    on_node TEXT NOT NULL CHECK (on_node IN ('no', 'maybe')),
    was_deployed INTEGER NOT NULL CHECK (was_deployed IN (0, 1))
) STRICT, WITHOUT ROWID;

INSERT INTO vm (id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state,
    stage, percent, fault, last_order, sequence, created, changed, expires, deadline, on_node, was_deployed)
SELECT id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state,
    stage, percent, fault, last_order, sequence, created, changed, expires, deadline, on_node, was_deployed
FROM old_vm;

CREATE TABLE event (
    vm TEXT NOT NULL REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL
) STRICT;

INSERT INTO event (rowid, vm, at, who, origin, what, detail)
SELECT rowid, vm, at, who, origin, what, detail FROM old_event;

DROP TABLE old_event;
DROP TABLE old_vm;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';
CREATE INDEX event_vm ON event (vm);
";

/// Leases that end, and what goes with them: machines that are protected, wanted stopped, saved as
/// images or without an end; notices to owners; the outbox; what is closed; orphans on hosts. As in
/// version 2, the tables of machines and events are recreated for their CHECKs. New columns have
/// defaults, so that a program of the old version that has the file open can finish its work.
const SCHEMA_3: &str = "
ALTER TABLE vm RENAME TO old_vm;
ALTER TABLE event RENAME TO old_event;

CREATE TABLE vm (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    owner TEXT NOT NULL REFERENCES user (canonical),
    virtual_host TEXT NOT NULL CHECK (virtual_host <> ''),
    physical_host TEXT NOT NULL CHECK (physical_host <> ''),
    image TEXT NOT NULL CHECK (image <> ''),
    memory_mib INTEGER NOT NULL CHECK (memory_mib > 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),
    label TEXT NOT NULL,
    lease TEXT NOT NULL CHECK (lease <> ''),
    state TEXT NOT NULL CHECK (state IN ('deploying', 'deployed', 'stopping', 'stopped', 'starting',
        'rebooting', 'saving', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),
    place INTEGER CHECK (place IS NULL OR (place > 0 AND state = 'deploying')),
    fault TEXT,
    last_order TEXT NOT NULL CHECK
        (last_order IN ('deploy', 'terminate', 'stop', 'start', 'reboot', 'save')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    expires INTEGER CHECK ((expires IS NULL) = (lease = 'never')),
    deadline INTEGER CHECK ((deadline IS NOT NULL) =
        (state IN ('deploying', 'stopping', 'starting', 'rebooting', 'saving', 'terminating'))),
    on_node TEXT NOT NULL CHECK (on_node IN ('no', 'maybe')),
    was_deployed INTEGER NOT NULL CHECK (was_deployed IN (0, 1)),
    wanted TEXT NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'stopped')),
    protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)),
    deletion INTEGER,
    save_as TEXT CHECK (save_as <> ''),
    then_terminate INTEGER NOT NULL DEFAULT 0 CHECK
        (then_terminate = 0 OR (then_terminate = 1 AND save_as IS NOT NULL)),
    from_owner TEXT,
    from_name TEXT CHECK ((from_name IS NULL) = (from_owner IS NULL)),
    silent INTEGER NOT NULL DEFAULT 0 CHECK (silent >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO vm (id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state,
    stage, percent, place, fault, last_order, sequence, created, changed, expires, deadline, on_node,
    was_deployed, wanted)
SELECT id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state,
    stage, percent, place, fault, last_order, sequence, created, changed, expires, deadline, on_node,
    was_deployed, CASE WHEN state IN ('stopping', 'stopped') THEN 'stopped' ELSE 'running' END
FROM old_vm;

CREATE TABLE event (
    vm TEXT REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL,
    subject TEXT CHECK ((subject IS NULL) = (vm IS NOT NULL))
) STRICT;

INSERT INTO event (rowid, vm, at, who, origin, what, detail)
SELECT rowid, vm, at, who, origin, what, detail FROM old_event;

DROP TABLE old_event;
DROP TABLE old_vm;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';
CREATE INDEX event_vm ON event (vm);
CREATE INDEX event_at ON event (at);

ALTER TABLE user ADD COLUMN mail TEXT CHECK (mail <> '');

CREATE TABLE notice (
    vm TEXT NOT NULL REFERENCES vm (id),
    kind TEXT NOT NULL CHECK (kind <> ''),
    lease_end INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lived INTEGER NOT NULL,
    PRIMARY KEY (vm, kind, lease_end)
) STRICT, WITHOUT ROWID;

CREATE TABLE upkeep (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    last INTEGER NOT NULL,
    lived INTEGER NOT NULL CHECK (lived >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE mail (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 36),
    recipient TEXT NOT NULL CHECK (recipient <> ''),
    subject TEXT NOT NULL,
    plain TEXT NOT NULL,
    html TEXT NOT NULL,
    queued INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),
    next_try INTEGER NOT NULL,
    error TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX mail_next ON mail (next_try);

CREATE TABLE closed (
    kind TEXT NOT NULL CHECK (kind IN ('portal', 'host', 'name')),
    name TEXT NOT NULL CHECK ((name = '') = (kind = 'portal')),
    reason TEXT NOT NULL,
    who TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE contact (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    tried INTEGER NOT NULL,
    fault TEXT,
    since INTEGER NOT NULL,
    told INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE stray (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('domain', 'volume', 'record', 'image')),
    name TEXT NOT NULL CHECK (name <> ''),
    detail TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (host, kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    owner TEXT NOT NULL REFERENCES user (canonical),
    name TEXT NOT NULL CHECK (name <> ''),
    host TEXT NOT NULL CHECK (host <> ''),
    base TEXT NOT NULL CHECK (base <> ''),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    disk_gib INTEGER NOT NULL CHECK (disk_gib > 0),
    shared INTEGER NOT NULL DEFAULT 0 CHECK (shared IN (0, 1)),
    saved INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;
";

/// The registry's identity. The program that migrates inserts the row: SQL can't generate a UUID of
/// version 7. `restored` is when a backup was last put in the registry's place, `compared` when all
/// hosts had been checked since.
const SCHEMA_4: &str = "
CREATE TABLE identity (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    id TEXT NOT NULL CHECK (length(id) = 36),
    since INTEGER NOT NULL,
    restored INTEGER,
    compared INTEGER CHECK (compared IS NULL OR restored IS NOT NULL)
) STRICT, WITHOUT ROWID;
";

/// Order numbers, which nodes remember: an order is carried out once, and never after a later one.
const SCHEMA_5: &str = "
ALTER TABLE vm ADD COLUMN order_number INTEGER NOT NULL DEFAULT 0 CHECK (order_number >= 0);
";

/// Orders that are recognised when they are repeated, for as long as their machine is on record;
/// and the folded names by which users are compared. Of existing users whose names fold to the
/// same, the oldest has `folded` (see `user::fold_all`); the others have NULL there and stay
/// separate people.
pub const SCHEMA_6: &str = "
ALTER TABLE user ADD COLUMN folded TEXT CHECK (folded <> '');
CREATE UNIQUE INDEX user_folded ON user (folded);

CREATE TABLE deploy_request (
    owner TEXT NOT NULL REFERENCES user (canonical),
    request TEXT NOT NULL CHECK (request <> ''),
    wish TEXT NOT NULL,
    vm TEXT NOT NULL CHECK (length(vm) = 36),
    PRIMARY KEY (owner, request)
) STRICT, WITHOUT ROWID;

CREATE INDEX deploy_request_vm ON deploy_request (vm);
";

/// What rules out a host for new machines: deploys that failed through its own fault since the last
/// one that did not, and the images it reported (tags separated by blanks; NULL if it never
/// reported any).
const SCHEMA_9: &str = "
ALTER TABLE host ADD COLUMN images TEXT;

CREATE TABLE host_failure (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    failures INTEGER NOT NULL CHECK (failures > 0),
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Owners who had mail but no address, until they have one.
const SCHEMA_10: &str = "
CREATE TABLE unreachable (
    owner TEXT PRIMARY KEY NOT NULL REFERENCES user (canonical),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Who chose a machine's host; existing machines are never moved. Also the failed deploys that
/// administrators were told of: the kind of fault, and the image or name it is about, if any.
const SCHEMA_11: &str = "
CREATE TABLE told_fault (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind <> ''),
    subject TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (host, kind, subject)
) STRICT, WITHOUT ROWID;

ALTER TABLE vm ADD COLUMN placed TEXT NOT NULL DEFAULT 'asked' CHECK (placed IN ('asked', 'chosen', 'again'));
";

/// Who ordered the removal of an orphan and when. Until now this was read from the history: a
/// removal counts as ordered if that is the last event about the removal of this orphan.
const SCHEMA_12: &str = "
ALTER TABLE stray ADD COLUMN ordered_by TEXT;
ALTER TABLE stray ADD COLUMN ordered_at INTEGER CHECK ((ordered_at IS NULL) = (ordered_by IS NULL));

UPDATE stray SET (ordered_by, ordered_at) = (
    SELECT CASE what WHEN 'stray removal ordered' THEN who END, CASE what WHEN 'stray removal ordered' THEN at END
    FROM event
    WHERE subject = stray.host AND at >= stray.since AND what LIKE 'stray remov%'
        AND (detail = stray.kind || ' ' || stray.name
            OR substr(detail, 1, length(stray.kind || stray.name) + 3) = stray.kind || ' ' || stray.name || ': ')
    ORDER BY at DESC, event.rowid DESC LIMIT 1
);
";

/// The number of a machine's processors, which was one; and what a host's configuration allows: the
/// most processors that it gives a machine, and the images that it can deploy (tags separated by
/// blanks). NULL if it has not said. And whether it emulates processors.
const SCHEMA_13: &str = "
ALTER TABLE vm ADD COLUMN cpus INTEGER NOT NULL DEFAULT 1 CHECK (cpus BETWEEN 1 AND 64);
ALTER TABLE host ADD COLUMN max_cpus INTEGER CHECK (max_cpus BETWEEN 1 AND 64);
ALTER TABLE host ADD COLUMN deployable TEXT;
ALTER TABLE host ADD COLUMN emulated INTEGER NOT NULL DEFAULT 0 CHECK (emulated IN (0, 1));
";
