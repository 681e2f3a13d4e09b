PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE user (
    canonical TEXT PRIMARY KEY NOT NULL CHECK (canonical <> ''),
    raw TEXT NOT NULL UNIQUE CHECK (raw <> ''),
    since INTEGER NOT NULL
, mail TEXT CHECK (mail <> ''), folded TEXT CHECK (folded <> '')) STRICT, WITHOUT ROWID;
INSERT INTO user VALUES('alice','alice',1795165260,NULL,'alice');
INSERT INTO user VALUES('bob','bob',1795167000,NULL,'bob');
INSERT INTO user VALUES('carol_c','carol c',1795167000,'carol@example.org','carol_c');
CREATE TABLE host (
    name TEXT PRIMARY KEY NOT NULL CHECK (name <> ''),
    memory_free INTEGER NOT NULL CHECK (memory_free >= 0),
    memory_total INTEGER NOT NULL CHECK (memory_total >= 0),
    disk_free INTEGER NOT NULL CHECK (disk_free >= 0),
    disk_total INTEGER NOT NULL CHECK (disk_total >= 0),
    version TEXT NOT NULL,
    common_digest TEXT NOT NULL,
    seen INTEGER NOT NULL
, images TEXT) STRICT, WITHOUT ROWID;
INSERT INTO host VALUES('127.0.0.2',3000,4096,51200,102400,'0.0.9','0123456789abcdef',1795348200,'');
INSERT INTO host VALUES('localhost',3000,4096,51200,102400,'0.0.9','0123456789abcdef',1795348560,'tiny debian-12');
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
, order_number INTEGER NOT NULL DEFAULT 0 CHECK (order_number >= 0), placed TEXT NOT NULL DEFAULT 'asked' CHECK (placed IN ('asked', 'chosen', 'again'))) STRICT, WITHOUT ROWID;
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000001','alice','vm1','localhost','debian-12',512,8,'Mail server','never','deployed',NULL,NULL,NULL,NULL,'deploy',9,1795165260,1795165300,NULL,NULL,'maybe',1,'running',1,NULL,NULL,0,NULL,NULL,0,1795165260000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000005','alice','vm5','localhost','tiny',128,1,'Nr. 5: <Büro & "Lab">','30d','stopping','shutdown',NULL,NULL,NULL,'stop',1,1795165500,1795348320,1797757500,1795350120,'maybe',1,'stopped',0,NULL,NULL,0,NULL,NULL,0,1795348320000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000006','alice','vm6','localhost','tiny',128,1,'Nr. 6: <Büro & "Lab">','30d','stopped',NULL,NULL,NULL,NULL,'stop',1,1795165560,1795348380,1797757560,NULL,'maybe',1,'stopped',0,NULL,NULL,0,NULL,NULL,0,1795348380000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000007','alice','vm7','localhost','tiny',128,1,'Nr. 7: <Büro & "Lab">','30d','starting','verify',NULL,NULL,NULL,'start',1,1795165620,1795348440,1797757620,1795350240,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795348440000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000008','alice','vm8','localhost','tiny',128,1,'Nr. 8: <Büro & "Lab">','30d','rebooting','shutdown',NULL,NULL,NULL,'reboot',1,1795165680,1795348440,1797757680,1795350240,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795348440000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000009','alice','vm9','localhost','tiny',128,1,'Nr. 9: <Büro & "Lab">','30d','saving','pack',30,NULL,NULL,'save',1,1795165740,1795348440,1797757740,1795350240,'maybe',1,'stopped',0,NULL,'disk9',0,NULL,NULL,0,1795348440000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000010','alice','vm10','localhost','tiny',128,1,'Nr. 10: <Büro & "Lab">','30d','saving',NULL,NULL,NULL,NULL,'save',0,1795165800,1795348440,1797757800,1795350240,'maybe',1,'running',0,NULL,'disk10',1,NULL,NULL,0,1795348440000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000011','alice','vm11','localhost','tiny',128,1,'Short','1d','expired',NULL,NULL,NULL,NULL,'stop',1,1795165860,1795255200,1795252260,NULL,'maybe',1,'running',0,1795780200,NULL,0,NULL,NULL,0,1795255200000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000012','alice','vm12','localhost','tiny',128,1,'Nr. 12: <Büro & "Lab">','30d','terminating','remove',NULL,NULL,NULL,'terminate',1,1795165920,1795348500,1797757920,1795350300,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795348500000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000014','alice','vm14','localhost','tiny',128,1,'Nr. 14: <Büro & "Lab">','30d','failed',NULL,NULL,NULL,'{"code":"removal-failed","detail":"xen-root-alice_vm14 is in use"}','terminate',1,1795166040,1795348500,1797758040,NULL,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795348500000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000015','alice','vm15','localhost','tiny',128,1,'Nr. 15: <Büro & "Lab">','30d','notDeployed',NULL,NULL,NULL,NULL,'terminate',1,1795166100,1795348500,1797758100,NULL,'no',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795348500000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000017','alice','vm17','localhost','tiny',128,1,'Nr. 17: <Büro & "Lab">','30d','stopped',NULL,NULL,NULL,'{"code":"save-failed","detail":"tar: broken pipe"}','save',1,1795166220,1795348560,1797758220,NULL,'maybe',1,'stopped',0,NULL,NULL,0,NULL,NULL,0,1795348560000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000019','carol_c','vm19','localhost','tiny',128,1,'','40d','stopped',NULL,NULL,NULL,NULL,'save',2,1795167000,1795167600,1798623000,NULL,'maybe',1,'stopped',0,NULL,NULL,0,NULL,NULL,0,1795167600001,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000018','bob','vm18','localhost','tiny',128,1,'','3d','deployed',NULL,NULL,NULL,'{"code":"machine-missing","machine":"bob_vm18"}','deploy',9,1795167000,1795167000,1795607700,NULL,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795167000000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000016','alice','vm16','localhost','tiny',128,2,'From web','30d','deployed',NULL,NULL,NULL,NULL,'deploy',9,1795167600,1795167600,1797759600,NULL,'maybe',1,'running',0,NULL,NULL,0,'alice','web-2026.11',2,1795167600000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000020','alice','vm20','localhost','tiny',128,1,'','30d','deployed',NULL,NULL,NULL,NULL,'deploy',9,1795347000,1795347000,1797939000,NULL,'maybe',1,'running',0,NULL,NULL,0,NULL,NULL,0,1795347000001,'again');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000002','alice','vm2','localhost','tiny',128,1,'Being made','30d','deploying','unpack',40,NULL,NULL,'deploy',2,1795348260,1795348260,1797940260,1795350060,'maybe',0,'running',0,NULL,NULL,0,NULL,NULL,0,1795348260000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000003','alice','vm3','localhost','tiny',128,1,'','30d','deploying','accepted',NULL,3,NULL,'deploy',1,1795348260,1795348260,1797940260,1795350060,'maybe',0,'running',0,NULL,NULL,0,NULL,NULL,0,1795348260000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000021','bob','vm21','localhost','debian-12',128,1,'','30d','deploying',NULL,NULL,NULL,NULL,'deploy',0,1795348320,1795348320,1797940320,1795350120,'maybe',0,'running',0,NULL,NULL,0,NULL,NULL,0,1795348320000,'chosen');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000004','alice','vm4','localhost','tiny',128,1,'','30d','deploying',NULL,NULL,NULL,NULL,'deploy',0,1795348320,1795348320,1797940320,1795350120,'maybe',0,'running',0,NULL,NULL,0,NULL,NULL,0,1795348320000,'asked');
INSERT INTO vm VALUES('01936f5e-0000-7000-8000-000000000013','alice','vm13','localhost','tiny',128,1,'','30d','failed','unpack',NULL,NULL,'{"code":"image-corrupt","tag":"tiny","detail":"unexpected end"}','deploy',2,1795348500,1795348500,1797940500,NULL,'no',0,'running',0,NULL,NULL,0,NULL,NULL,0,1795348500000,'asked');
CREATE TABLE event (
    vm TEXT REFERENCES vm (id),
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    origin TEXT NOT NULL,
    what TEXT NOT NULL CHECK (what <> ''),
    detail TEXT NOT NULL,
    subject TEXT CHECK ((subject IS NULL) = (vm IS NOT NULL))
) STRICT;
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795165260,'alice','127.0.0.1','deploy ordered','vm1 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795165260,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795165260,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795165300,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795165500,'alice','127.0.0.1','deploy ordered','vm5 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795165500,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795165500,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795165540,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795165560,'alice','127.0.0.1','deploy ordered','vm6 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795165560,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795165560,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795165600,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795165620,'alice','127.0.0.1','deploy ordered','vm7 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795165620,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795165620,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795165660,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795165680,'alice','127.0.0.1','deploy ordered','vm8 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795165680,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795165680,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795165720,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795165740,'alice','127.0.0.1','deploy ordered','vm9 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795165740,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795165740,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795165780,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000010',1795165800,'alice','127.0.0.1','deploy ordered','vm10 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000010',1795165800,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000010',1795165800,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000010',1795165840,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795165860,'alice','127.0.0.1','deploy ordered','vm11 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795165860,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795165860,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795165900,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795165920,'alice','127.0.0.1','deploy ordered','vm12 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795165920,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795165920,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795165960,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795166040,'alice','127.0.0.1','deploy ordered','vm14 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795166040,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795166040,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795166080,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795166100,'alice','127.0.0.1','deploy ordered','vm15 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795166100,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795166100,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795166140,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795166220,'alice','127.0.0.1','deploy ordered','vm17 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795166220,'host localhost','127.0.0.1','stage','making the volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795166220,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795166260,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000018',1795167000,'bob','127.0.0.1','deploy ordered','vm18 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000018',1795167000,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167000,'carol c','127.0.0.1','deploy ordered','vm19 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167000,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795167600,'alice','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795167600,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795167600,'alice','127.0.0.1','save ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795167600,'host localhost','127.0.0.1','stage','saving the disk as an image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795167600,'host localhost','127.0.0.1','saved','as the image web',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167600,'carol c','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167600,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167600,'carol c','127.0.0.1','save ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167600,'host localhost','127.0.0.1','stage','saving the disk as an image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000019',1795167600,'host localhost','127.0.0.1','saved','as the image base',NULL);
INSERT INTO event VALUES(NULL,1795167600,'carol c','127.0.0.1','image shared','','carol_c/base');
INSERT INTO event VALUES(NULL,1795167600,'alice','127.0.0.1','image renamed','it is called web-2026.11 now','alice/web');
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000016',1795167600,'alice','127.0.0.1','deploy ordered','vm16 on localhost, from the saved image alice/web-2026.11',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000016',1795167600,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795167600,'admin','127.0.0.1','lease set','never; it never ends',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000001',1795167600,'alice','127.0.0.1','protected','against being terminated by hand',NULL);
INSERT INTO event VALUES(NULL,1795251600,'upkeep','-','host does not answer','The host 127.0.0.9 can''t be reached (nobody listens there). Try again later, or deploy on another host.','127.0.0.9');
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000018',1795255200,'upkeep','-','owner told','the lease ends 2026-11-22 09:30 UTC',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795255200,'upkeep','-','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795255200,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795255200,'host localhost','127.0.0.1','lease ended','it is stopped; its disk is kept until 2026-11-26 10:00 UTC at least',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000011',1795258800,'upkeep','-','owner told','the lease has ended; the disk is kept until 2026-11-26 11:00 UTC',NULL);
INSERT INTO event VALUES(NULL,1795347000,'admin','127.0.0.1','host disabled','its disk is <b>dying</b>.','127.0.0.9');
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000020',1795347000,'alice','127.0.0.1','deploy ordered','vm20 on 127.0.0.2',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000020',1795347000,'alice','127.0.0.1','moved to another host','127.0.0.2: The Xen tools are missing on this host or do not answer (xl: no such file). Tell an administrator. It is tried on localhost instead.',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000020',1795347000,'host localhost','127.0.0.1','deployed','it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000018',1795347900,'upkeep','-','missing','its host has no such machine any more',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000002',1795348260,'alice','127.0.0.1','deploy ordered','vm2 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000002',1795348260,'host localhost','127.0.0.1','stage','accepted by the host',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000002',1795348260,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000003',1795348260,'alice','127.0.0.1','deploy ordered','vm3 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000003',1795348260,'host localhost','127.0.0.1','stage','accepted by the host',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000004',1795348320,'alice','127.0.0.1','deploy ordered','vm4 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000021',1795348320,'bob','127.0.0.1','deploy ordered','vm21 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795348320,'alice','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000005',1795348320,'host localhost','127.0.0.1','stage','shutting the machine down',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795348380,'alice','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000006',1795348380,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795348380,'alice','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795348380,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795348380,'alice','127.0.0.1','stop ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795348380,'host localhost','127.0.0.1','stopped','its disk is kept',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795348440,'alice','127.0.0.1','start ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000007',1795348440,'host localhost','127.0.0.1','stage','checking that it runs',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795348440,'alice','127.0.0.1','reboot ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000008',1795348440,'host localhost','127.0.0.1','stage','shutting the machine down',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795348440,'alice','127.0.0.1','save ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000009',1795348440,'host localhost','127.0.0.1','stage','saving the disk as an image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000010',1795348440,'alice','127.0.0.1','save ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795348500,'alice','127.0.0.1','terminate ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000012',1795348500,'host localhost','127.0.0.1','stage','removing the machine and its volumes',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000013',1795348500,'alice','127.0.0.1','deploy ordered','vm13 on localhost',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000013',1795348500,'host localhost','127.0.0.1','stage','unpacking the image',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000013',1795348500,'host localhost','127.0.0.1','deploy failed','The image tiny is damaged (unexpected end). Tell an administrator.',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795348500,'alice','127.0.0.1','terminate ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000014',1795348500,'host localhost','127.0.0.1','terminate failed','Not everything of the machine could be removed (xen-root-alice_vm14 is in use). Terminate it again, or tell an administrator.',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000018',1795348500,'bob','127.0.0.1','lease set','3d; it ends 2026-11-25 11:55 UTC',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795348500,'alice','127.0.0.1','terminate ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000015',1795348500,'host localhost','127.0.0.1','terminated','nothing of it is left',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795348560,'alice','127.0.0.1','save ordered','',NULL);
INSERT INTO event VALUES('01936f5e-0000-7000-8000-000000000017',1795348560,'host localhost','127.0.0.1','save failed','The disk could not be saved as an image (tar: broken pipe). Nothing of the machine is lost; try again, or tell an administrator.',NULL);
INSERT INTO event VALUES(NULL,1795348560,'admin','127.0.0.1','name disabled','its address is in use elsewhere','vm23');
INSERT INTO event VALUES(NULL,1795348560,'admin','127.0.0.1','stray removal ordered','record 01936f5e-0000-7000-8000-0000000000aa','localhost');
CREATE TABLE notice (
    vm TEXT NOT NULL REFERENCES vm (id),
    kind TEXT NOT NULL CHECK (kind <> ''),
    lease_end INTEGER NOT NULL,
    at INTEGER NOT NULL,
    lived INTEGER NOT NULL,
    PRIMARY KEY (vm, kind, lease_end)
) STRICT, WITHOUT ROWID;
INSERT INTO notice VALUES('01936f5e-0000-7000-8000-000000000011','ended',1795252260,1795348200,10200);
INSERT INTO notice VALUES('01936f5e-0000-7000-8000-000000000018','ends in 1d',1795339800,1795255200,3600);
CREATE TABLE upkeep (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    last INTEGER NOT NULL,
    lived INTEGER NOT NULL CHECK (lived >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO upkeep VALUES(1,1795348200,10200);
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
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000100','admin@example.org','The host 127.0.0.9 does not answer',replace('Hello,\n\nthe host 127.0.0.9 does not answer since 2026-11-20 10:00 UTC:\n\n    The host 127.0.0.9 can''t be reached (nobody listens there). Try again later, or deploy on another host.\n\nNo machine is on it, as far as the portal knows. Nothing is done to them; they keep\ntheir names and their places.\n\nWhat to do: see whether the host runs and whether its Apache answers, and run vgrid-check on both sides.\nIf the host is gone for good, close it and terminate its machines.\n\n-- \nvGrid sends this to its administrators. There is one mail when a host stops answering, and one\nwhen it answers again. There are none about hosts that are not in [PhysicalHostsPool] of common.cfg.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>The host 127.0.0.9 does not answer</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>the host <b>127.0.0.9</b> does not answer since 2026-11-20 10:00 UTC:</p>\n<blockquote>The host 127.0.0.9 can&#39;t be reached (nobody listens there). Try again later, or deploy on another host.</blockquote>\n<p>No machine is on it, as far as the portal knows. Nothing is done to them; they keep their names and their places.</p>\n<p>What to do: see whether the host runs and whether its Apache answers, and run <code>vgrid-check</code> on both sides. If the host is gone for good, close it and terminate its machines.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to its administrators. There is one mail when a host stops answering, and one when it answers again. There are none about hosts that are not in <code>[PhysicalHostsPool]</code> of <code>common.cfg</code>.</p>\n</body>\n</html>\n','\n',char(10)),1795251600,4,1795348800,'/bin/false -i -f vgrid@example.org -- admin@example.org: exit status: 1:');
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000101','admin@example.org','bob can''t be reached by mail',replace('Hello,\n\nthere was mail for bob about the machine vm18\non localhost, and bob has no address of mail.\n\nThe disks of this person''s machines are kept after their leases have ended, until there is an address.\n\nWhat to do: enter one in [MailAddresses] of server.cfg, or tell them, or look at the machine and terminate it.\n\n-- \nvGrid sends this to its administrators, once for each person, until there is an address.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>bob can''t be reached by mail</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>there was mail for <b>bob</b> about the machine <b>vm18</b> on localhost, and bob has no address of mail.</p>\n<p>The disks of this person''s machines are kept after their leases have ended, until there is an address.</p>\n<p>What to do: enter one in <code>[MailAddresses]</code> of server.cfg, or tell them, or look at the machine and terminate it.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to its administrators, once for each person, until there is an address.</p>\n</body>\n</html>\n','\n',char(10)),1795255200,2,1795348500,'/bin/false -i -f vgrid@example.org -- admin@example.org: exit status: 1:');
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000102','alice@example.org','vm11: its lease has ended',replace('Hello,\n\nthe lease of your machine vm11 (Short) has ended.\nThe machine is shut down. Its disk is kept until 2026-11-26 11:00 UTC; after that the machine is deleted\nwith everything on it.\n\nDo you still need it? If it was running, it starts again once you extend its lease on its page in the portal.\n\nIf you need it no longer, you need do nothing.\n\n-- \nvGrid sends this to you because the machine is yours.\nOnce it is extended or terminated, there is no further mail about this lease.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>vm11: its lease has ended</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>the lease of your machine <b>vm11</b> (Short) has ended. The machine is shut down. Its disk is kept until 2026-11-26 11:00 UTC; after that the machine is deleted with everything on it.</p>\n<p>Do you still need it? If it was running, it starts again once you extend its lease.</p>\n<p>If you need it no longer, you need do nothing.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to you because the machine is yours. Once it is extended or terminated, there is no further mail about this lease.</p>\n</body>\n</html>\n','\n',char(10)),1795258800,0,1795258800,NULL);
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000103','admin@example.org','A deploy failed on 127.0.0.2: vm20',replace('Hello,\n\nthe machine vm20 of alice\ncould not be deployed on 127.0.0.2 with the image tiny:\n\n    The Xen tools are missing on this host or do not answer (xl: no such file). Tell an administrator.\n\nIts page says what became of it. vGrid prefers other hosts for a while, longer with each failure.\n\nWhat to do: run vgrid-check on 127.0.0.2. Its log has more about machine\n01936f5e-0000-7000-8000-000000000020.\n\n-- \nvGrid sends this to its administrators. A host that fails again and again is told once a day,\nuntil a deploy succeeds there.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>A deploy failed on 127.0.0.2: vm20</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>the machine <b>vm20</b> of alice could not be deployed on 127.0.0.2 with the image tiny:</p>\n<blockquote>The Xen tools are missing on this host or do not answer (xl: no such file). Tell an administrator.</blockquote>\n<p>Its page says what became of it. vGrid prefers other hosts for a while, longer with each failure.</p>\n<p>What to do: run <code>vgrid-check</code> on 127.0.0.2. Its log has more about machine 01936f5e-0000-7000-8000-000000000020.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to its administrators. A host that fails again and again is told once a day, until a deploy succeeds there.</p>\n</body>\n</html>\n','\n',char(10)),1795347000,0,1795347000,NULL);
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000104','admin@example.org','Something unknown on the host localhost',replace('Hello,\n\non the host localhost there is something that the portal did not order, or no longer knows:\n\n    domain dave_d_vm22: 128 MiB, -b----\n    domain by hand: 256 MiB, -b----\n    volume xen-root-dave_d_vm22: 1.0 GiB, of machine 01936f5e-0000-7000-8000-0000000000aa\n    record 01936f5e-0000-7000-8000-0000000000aa: dave_d_vm22; nothing is being done\n    image dave_d_old: 4711 bytes\n\nvGrid deletes nothing on a guess. What to do: look at it on the host, and if nobody needs it, remove it on the\nportal''s page "Admin" or by hand. Until then it takes memory or space, and a machine that is to have the same name can''t be deployed there.\n\n-- \nvGrid sends this to its administrators. Each thing is told once, when it is first seen.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Something unknown on the host localhost</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>on the host <b>localhost</b> there is something that the portal did not order, or no longer knows:</p>\n<ul>\n<li>domain <code>dave_d_vm22</code>: 128 MiB, -b----</li>\n<li>domain <code>by hand</code>: 256 MiB, -b----</li>\n<li>volume <code>xen-root-dave_d_vm22</code>: 1.0 GiB, of machine 01936f5e-0000-7000-8000-0000000000aa</li>\n<li>record <code>01936f5e-0000-7000-8000-0000000000aa</code>: dave_d_vm22; nothing is being done</li>\n<li>image <code>dave_d_old</code>: 4711 bytes</li>\n</ul>\n<p>vGrid deletes nothing on a guess. What to do: look at it on the host, and if nobody needs it, remove it on the portal’s page “Admin” or by hand. Until then it takes memory or space, and a machine that is to have the same name can''t be deployed there.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to its administrators. Each thing is told once, when it is first seen.</p>\n</body>\n</html>\n','\n',char(10)),1795347900,0,1795347900,NULL);
INSERT INTO mail VALUES('01936f5e-0000-7000-8000-000000000105','admin@example.org','A deploy failed on localhost: vm13',replace('Hello,\n\nthe machine vm13 of alice\ncould not be deployed on localhost with the image tiny:\n\n    The image tiny is damaged (unexpected end). Tell an administrator.\n\nIts page says what became of it. vGrid prefers other hosts for a while, longer with each failure.\n\nWhat to do: run vgrid-check on localhost. Its log has more about machine\n01936f5e-0000-7000-8000-000000000013.\n\n-- \nvGrid sends this to its administrators. A host that fails again and again is told once a day,\nuntil a deploy succeeds there.\n','\n',char(10)),replace('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>A deploy failed on localhost: vm13</title>\n</head>\n<body style="font-family: sans-serif; line-height: 1.5; max-width: 40em">\n\n<p>Hello,</p>\n<p>the machine <b>vm13</b> of alice could not be deployed on localhost with the image tiny:</p>\n<blockquote>The image tiny is damaged (unexpected end). Tell an administrator.</blockquote>\n<p>Its page says what became of it. vGrid prefers other hosts for a while, longer with each failure.</p>\n<p>What to do: run <code>vgrid-check</code> on localhost. Its log has more about machine 01936f5e-0000-7000-8000-000000000013.</p>\n\n<p style="color: #666; font-size: 85%; border-top: 1px solid #ccc; padding-top: .6em; margin-top: 2em">vGrid sends this to its administrators. A host that fails again and again is told once a day, until a deploy succeeds there.</p>\n</body>\n</html>\n','\n',char(10)),1795348500,0,1795348500,NULL);
CREATE TABLE closed (
    kind TEXT NOT NULL CHECK (kind IN ('portal', 'host', 'name')),
    name TEXT NOT NULL CHECK ((name = '') = (kind = 'portal')),
    reason TEXT NOT NULL,
    who TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO closed VALUES('host','127.0.0.9','its disk is <b>dying</b>.','admin',1795347000);
INSERT INTO closed VALUES('name','vm23','its address is in use elsewhere','admin',1795348560);
CREATE TABLE contact (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    tried INTEGER NOT NULL,
    fault TEXT,
    since INTEGER NOT NULL,
    told INTEGER NOT NULL DEFAULT 0 CHECK (told IN (0, 1))
) STRICT, WITHOUT ROWID;
INSERT INTO contact VALUES('127.0.0.2',1795348200,NULL,1795168800,0);
INSERT INTO contact VALUES('127.0.0.9',1795348200,'The host 127.0.0.9 can''t be reached (nobody listens there). Try again later, or deploy on another host.',1795168800,1);
INSERT INTO contact VALUES('localhost',1795348200,NULL,1795168800,0);
CREATE TABLE stray (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind IN ('domain', 'volume', 'record', 'image')),
    name TEXT NOT NULL CHECK (name <> ''),
    detail TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (host, kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO stray VALUES('localhost','domain','by-hand','256 MiB, -b----',1795347900);
INSERT INTO stray VALUES('localhost','domain','dave_d_vm22','128 MiB, -b----',1795347900);
INSERT INTO stray VALUES('localhost','image','dave_d_old','4711 bytes',1795347900);
INSERT INTO stray VALUES('localhost','record','01936f5e-0000-7000-8000-0000000000aa','dave_d_vm22; nothing is being done',1795347900);
INSERT INTO stray VALUES('localhost','volume','xen-root-dave_d_vm22','1.0 GiB, of machine 01936f5e-0000-7000-8000-0000000000aa',1795347900);
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
INSERT INTO image VALUES('alice','web-2026.11','localhost','tiny',123456806,1,0,1795167600);
INSERT INTO image VALUES('carol_c','base','localhost','tiny',123456808,1,1,1795167600);
CREATE TABLE identity (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    id TEXT NOT NULL CHECK (length(id) = 36),
    since INTEGER NOT NULL,
    restored INTEGER,
    compared INTEGER CHECK (compared IS NULL OR restored IS NOT NULL)
) STRICT, WITHOUT ROWID;
INSERT INTO identity VALUES(1,'01936f5e-0000-7000-8000-000000000099',1795160000,1795163600,1795167200);
CREATE TABLE deploy_request (
    owner TEXT NOT NULL REFERENCES user (canonical),
    request TEXT NOT NULL CHECK (request <> ''),
    wish TEXT NOT NULL,
    vm TEXT NOT NULL CHECK (length(vm) = 36),
    PRIMARY KEY (owner, request)
) STRICT, WITHOUT ROWID;
INSERT INTO deploy_request VALUES('alice','script order-1','2865c33c7a587a43','01936f5e-0000-7000-8000-000000000002');
CREATE TABLE host_failure (
    host TEXT PRIMARY KEY NOT NULL CHECK (host <> ''),
    failures INTEGER NOT NULL CHECK (failures > 0),
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO host_failure VALUES('127.0.0.2',1,1795347000);
CREATE TABLE unreachable (
    owner TEXT PRIMARY KEY NOT NULL REFERENCES user (canonical),
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO unreachable VALUES('bob',1795255200);
CREATE TABLE told_fault (
    host TEXT NOT NULL CHECK (host <> ''),
    kind TEXT NOT NULL CHECK (kind <> ''),
    subject TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (host, kind, subject)
) STRICT, WITHOUT ROWID;
INSERT INTO told_fault VALUES('127.0.0.2','toolstack-missing','',1795347000);
INSERT INTO told_fault VALUES('localhost','image-corrupt','tiny',1795348500);
CREATE UNIQUE INDEX vm_name ON vm (virtual_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_host ON vm (physical_host) WHERE state <> 'notDeployed';
CREATE INDEX vm_owner ON vm (owner) WHERE state <> 'notDeployed';
CREATE INDEX vm_live ON vm (id) WHERE state <> 'notDeployed';
CREATE INDEX event_vm ON event (vm);
CREATE INDEX event_at ON event (at);
CREATE INDEX mail_next ON mail (next_try);
CREATE UNIQUE INDEX user_folded ON user (folded);
CREATE INDEX deploy_request_vm ON deploy_request (vm);
PRAGMA user_version=11;
COMMIT;
