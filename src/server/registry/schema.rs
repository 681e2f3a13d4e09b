//! The tables of the registry: the current schema (`schema.sql`) and the migrations between
//! versions. A version that has shipped never changes.

/// The schema version of this program.
pub const NEWEST: u32 = 15;

/// The oldest version that this program can migrate. Earlier ones were never released.
pub const OLDEST: u32 = 11;

/// The schema of the newest version, for a new registry.
pub const SCHEMA: &str = include_str!("schema.sql");

/// The migrations, each from the version before it. Each runs in a transaction, with SQLite's
/// foreign key checks on. SQLite can't change a CHECK, so that takes a new table; then the tables
/// that refer to it have to be recreated, too. New columns have defaults, so that a program of the
/// old version that has the file open can finish its work.
pub const MIGRATIONS: [(u32, &str); 4] = [(12, SCHEMA_12), (13, SCHEMA_13), (14, SCHEMA_14), (15, SCHEMA_15)];

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

/// Changes of sizes: a state, an order, and the sizes that a machine is being given. The CHECKs of
/// machines change, so this takes a new table, and new ones of what refers to it.
const SCHEMA_14: &str = "
ALTER TABLE vm RENAME TO old_vm;
ALTER TABLE event RENAME TO old_event;
ALTER TABLE notice RENAME TO old_notice;

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
        'rebooting', 'saving', 'resizing', 'expired', 'terminating', 'failed', 'notDeployed')),
    stage TEXT,
    percent INTEGER CHECK (percent BETWEEN 0 AND 100),
    place INTEGER CHECK (place IS NULL OR (place > 0 AND state = 'deploying')),
    fault TEXT,
    last_order TEXT NOT NULL CHECK
        (last_order IN ('deploy', 'terminate', 'stop', 'start', 'reboot', 'save', 'resize')),
    sequence INTEGER NOT NULL CHECK (sequence >= 0),
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    expires INTEGER CHECK ((expires IS NULL) = (lease = 'never')),
    deadline INTEGER CHECK ((deadline IS NOT NULL) =
        (state IN ('deploying', 'stopping', 'starting', 'rebooting', 'saving', 'resizing', 'terminating'))),
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
    silent INTEGER NOT NULL DEFAULT 0 CHECK (silent >= 0),
    order_number INTEGER NOT NULL DEFAULT 0 CHECK (order_number >= 0),
    placed TEXT NOT NULL DEFAULT 'asked' CHECK (placed IN ('asked', 'chosen', 'again')),
    cpus INTEGER NOT NULL DEFAULT 1 CHECK (cpus BETWEEN 1 AND 64),
    new_memory_mib INTEGER CHECK (new_memory_mib > 0),
    new_cpus INTEGER CHECK
        ((new_cpus IS NULL OR new_cpus BETWEEN 1 AND 64) AND (new_cpus IS NULL) = (new_memory_mib IS NULL)),
    new_disk_gib INTEGER CHECK
        ((new_disk_gib IS NULL OR new_disk_gib > 0) AND (new_disk_gib IS NULL) = (new_memory_mib IS NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO vm (
    id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state, stage, percent, place,
    fault, last_order, sequence, created, changed, expires, deadline, on_node, was_deployed, wanted, protected, deletion,
    save_as, then_terminate, from_owner, from_name, silent, order_number, placed, cpus)
SELECT
    id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state, stage, percent, place,
    fault, last_order, sequence, created, changed, expires, deadline, on_node, was_deployed, wanted, protected, deletion,
    save_as, then_terminate, from_owner, from_name, silent, order_number, placed, cpus
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

INSERT INTO event (rowid, vm, at, who, origin, what, detail, subject)
SELECT rowid, vm, at, who, origin, what, detail, subject FROM old_event;

CREATE TABLE notice (
    vm TEXT NOT NULL REFERENCES vm (id),
    kind TEXT NOT NULL CHECK (kind <> ''),
    lease_end INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lived INTEGER NOT NULL,
    PRIMARY KEY (vm, kind, lease_end)
) STRICT, WITHOUT ROWID;

INSERT INTO notice (vm, kind, lease_end, at, lived) SELECT vm, kind, lease_end, at, lived FROM old_notice;

DROP TABLE old_event;
DROP TABLE old_notice;
DROP TABLE old_vm;

CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';
CREATE INDEX event_vm ON event (vm);
CREATE INDEX event_at ON event (at);
";

/// Snapshots of machines' disks, machines made from them, whether a host can take them, and how full a host's thin pool is.
const SCHEMA_15: &str = "
ALTER TABLE vm ADD COLUMN from_vm TEXT;
ALTER TABLE vm ADD COLUMN from_snapshot TEXT CHECK ((from_snapshot IS NULL) = (from_vm IS NULL));
ALTER TABLE host ADD COLUMN snapshots INTEGER NOT NULL DEFAULT 0 CHECK (snapshots IN (0, 1));
ALTER TABLE host ADD COLUMN pool_data INTEGER CHECK (pool_data BETWEEN 0 AND 100);
ALTER TABLE host ADD COLUMN pool_metadata INTEGER CHECK
        ((pool_metadata IS NULL OR pool_metadata BETWEEN 0 AND 100) AND (pool_metadata IS NULL) = (pool_data IS NULL));
ALTER TABLE host ADD COLUMN pool_told INTEGER NOT NULL DEFAULT 0 CHECK (pool_told IN (0, 1));

CREATE TABLE snapshot (
    vm TEXT NOT NULL REFERENCES vm (id),
    name TEXT NOT NULL CHECK (name <> ''),
    taken INTEGER NOT NULL,
    holds_mib INTEGER NOT NULL CHECK (holds_mib >= 0),
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;
";
