-- A data folder's database with a journal of the first form, as Tinsmith wrote it before rows had a version.
-- Operations of every kind: done, failed, refused at the door and, behind a host that was held, pending.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE api_keys (
	id INTEGER NOT NULL, 
	key_hash TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	name TEXT NOT NULL, 
	shown TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	revoked_at FLOAT, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash)
);
CREATE TABLE base_models (
	name TEXT NOT NULL, 
	info JSON NOT NULL, 
	CONSTRAINT pk_base_models PRIMARY KEY (name)
);
INSERT INTO "base_models" VALUES('tiny','{"name": "tiny", "architecture": "LlamaForCausalLM", "model_type": "llama", "vocab_size": 100, "hidden_size": 8, "num_layers": 1, "context_length": 64, "is_moe": false, "experts_per_token": 1, "tied_embeddings": false, "eos_token_ids": [0], "parameters": 1000}');
CREATE TABLE checkpoints (
	id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	folder TEXT NOT NULL, 
	base_model TEXT NOT NULL, 
	lora JSON NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	public BOOLEAN NOT NULL, 
	user_metadata JSON, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_run_id FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT uq_checkpoints_run_id_kind_name UNIQUE (run_id, kind, name)
);
INSERT INTO "checkpoints" VALUES(1,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0','weights','s','ann','checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s','tiny','{"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}',29,0,'null',1.79596791196933341025e+09,NULL);
INSERT INTO "checkpoints" VALUES(2,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0','sampler_weights','w','ann','checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/sampler_weights/w','tiny','{"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}',29,0,'null',1.79596791198439097408e+09,NULL);
CREATE TABLE operations (
	ordinal INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	instance TEXT NOT NULL, 
	scope TEXT, 
	payload_hash TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	session_id TEXT, 
	base_model TEXT NOT NULL, 
	model_id TEXT, 
	seq_id BIGINT, 
	sampler_id TEXT, 
	args JSON NOT NULL, 
	body BLOB, 
	body_blob TEXT, 
	body_digest TEXT, 
	state TEXT NOT NULL, 
	at_door BOOLEAN NOT NULL, 
	result BLOB, 
	result_blob TEXT, 
	media_type TEXT, 
	error TEXT, 
	category TEXT, 
	created_at FLOAT NOT NULL, 
	settled_at FLOAT, 
	fetched_at FLOAT, 
	CONSTRAINT pk_operations PRIMARY KEY (ordinal), 
	CONSTRAINT uq_operations_request_id UNIQUE (request_id), 
	CONSTRAINT uq_operations_scope UNIQUE (scope)
);
INSERT INTO "operations" VALUES(1,'520fa0d9a5bfdbb4ac2549f99920bb54','serve','model:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0','2149ffe3c87d9d8c5aacd7c40a679fe1','create_model','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',NULL,NULL,'{"op": {"lora": {"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}}}',NULL,NULL,NULL,'done',0,X'7B2274797065223A226372656174655F6D6F64656C222C226D6F64656C5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A30227D',NULL,'application/json',NULL,NULL,1.79596791192736983302e+09,1.79596791193258142468e+09,NULL);
INSERT INTO "operations" VALUES(2,'b01604bacce0e286929db2d526a16287','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:1','4c8806300b8c644af3f287272e73004d','forward_backward','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',1,NULL,'{"wire": {"forward_only": true}}',X'0A2C65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A3010011A440A080A060A040100000012160A0777656967687473120B0A040000803F180122010112200A0D7461726765745F746F6B656E73120F0A0801000000000000001802220101220D63726F73735F656E74726F70793001',NULL,'92021d2bef98d678be4ebc4ba7b21c63','done',0,X'0A0B41727261795265636F7264122A12260A086C6F6770726F6273121A0A040AD7A3BD121000000000000000000400000000000000180118011A130A086C6F73733A73756D110000000000001040',NULL,'application/x-protobuf',NULL,NULL,1.79596791193725419046e+09,1.79596791194091987605e+09,NULL);
INSERT INTO "operations" VALUES(3,'ed2034e15bfdb6d0aa4eb64e89bd20b8','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:2','b4a3f416eba98232e9d36b232658346e','forward_backward','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',2,NULL,'{"wire": {"forward_only": false}}',X'0A2C65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A3010021A540A0C0A0A0A080100000002000000121A0A0777656967687473120F0A080000803F0000803F180122010212280A0D7461726765745F746F6B656E7312170A10010000000000000002000000000000001802220102220D63726F73735F656E74726F7079',NULL,'38cb2fdfdfc275314319e8e7c946232d','done',0,X'0A0B41727261795265636F7264122E122A0A086C6F6770726F6273121E0A080AD7A3BD8FC2F5BD121000000000000000000800000000000000180118011A130A086C6F73733A73756D110000000000002840',NULL,'application/x-protobuf',NULL,NULL,1.79596791194477224348e+09,1.79596791194822406768e+09,NULL);
INSERT INTO "operations" VALUES(4,'36e760860afe67d5e31d2186651e845c','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:3','903fabd663c5813d0a121ddb7456fb63','optim_step','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',3,NULL,'{"op": {"adam": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0}}}',NULL,NULL,NULL,'done',0,X'7B226D657472696373223A7B22776569676874223A332E3935372C227374657073223A312E307D7D',NULL,'application/json',NULL,NULL,1.79596791195213198663e+09,1.79596791195538496967e+09,NULL);
INSERT INTO "operations" VALUES(5,'bc745dc24188395ee7acad9d42286a43','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:4','872cb394a761765b0f828ed5e6be7473','save_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',4,NULL,'{"op": {"folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s"}, "wire": {"name": "s", "kind": "weights", "checkpoint_folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s", "ttl_seconds": null, "user_metadata": null}}',NULL,NULL,NULL,'done',0,X'7B2270617468223A2274696E6B65723A2F2F65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A302F776569676874732F73222C2274797065223A22736176655F77656967687473227D',NULL,'application/json',NULL,NULL,1.79596791195905399318e+09,1.79596791196935987467e+09,NULL);
INSERT INTO "operations" VALUES(6,'bafeddd15221a0209b039b1b3f34c216','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:5','8b3d2ebea0272a1ea5fcb3e0e8b82b9e','save_sampler','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',5,NULL,'{"op": {"folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/sampler_weights/w"}, "wire": {"name": "w", "kind": "sampler_weights", "checkpoint_folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/sampler_weights/w", "ttl_seconds": null, "user_metadata": null}}',NULL,NULL,NULL,'done',0,X'7B2270617468223A2274696E6B65723A2F2F65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A302F73616D706C65725F776569676874732F77222C2274797065223A22736176655F776569676874735F666F725F73616D706C6572227D',NULL,'application/json',NULL,NULL,1.79596791197745561598e+09,1.79596791198442339897e+09,NULL);
INSERT INTO "operations" VALUES(7,'e69dc80e565612a03cd4ceda0baacb9f','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:6','b3c6b8801f468d58c219601061df16ff','snapshot','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',6,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:0','{"op": {"sampler_id": "e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:0", "folder": "samplers/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:0"}}',NULL,NULL,NULL,'done',0,X'7B2273616D706C696E675F73657373696F6E5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A73616D706C653A30222C2274797065223A22736176655F776569676874735F666F725F73616D706C6572227D',NULL,'application/json',NULL,NULL,1.79596791198982501033e+09,1.79596791199252796169e+09,NULL);
INSERT INTO "operations" VALUES(8,'b7c4877bd52aa247362ee5548095a3d9','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:7','fae02c104dac96f20105ea9566130633','load_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',7,NULL,'{"op": {"folder": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/loaded-b41b3c15", "optimizer": true, "lora": {"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}, "next_seq": 8}, "wire": {"path": "tinker://e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s", "pinned": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/loaded-b41b3c15"}}',NULL,NULL,NULL,'done',0,X'7B2274797065223A226C6F61645F77656967687473222C226D6F64656C5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A30222C2270617468223A2274696E6B65723A2F2F65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A302F776569676874732F73227D',NULL,'application/json',NULL,NULL,1.795967911998393774e+09,1.79596791200533461565e+09,NULL);
INSERT INTO "operations" VALUES(9,'42aa37422ac7ac34f30459a3a24f7d53','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:8','c1c385244c2ecc85dd7e40159c53030b','forward_backward','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',8,NULL,'{"wire": {"forward_only": false}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'loss_fn: got ''none_such'', expected one of cross_entropy, importance_sampling, ppo, cispo, dro','user',1.79596791200912952427e+09,1.7959679120094776154e+09,NULL);
INSERT INTO "operations" VALUES(10,'5ef4a85a880c9eae66179b05d443e8dc','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:9','3f42abbf6ddc5bdf21553f34e9aca704','optim_step','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',9,NULL,'{}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'adam_params.beta1: got 7.0, expected a number in [0, 1)','user',1.79596791201386976242e+09,1.79596791201400208474e+09,NULL);
INSERT INTO "operations" VALUES(11,'1a9296285f14dfc90c8ceab26dc706cf','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:10','1f32c803183307fb873aca7c2e07ac06','save_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',10,NULL,'{}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'path: got ''../x'', expected 1 to 200 letters, digits, ''_'', ''-'' or ''.'', not beginning with ''.'' or ''-''','user',1.79596791201774811739e+09,1.79596791201781964299e+09,NULL);
INSERT INTO "operations" VALUES(12,'7e861a41c86b88d9f556327a9737f612','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:11','7c75a3e76ff66d7cfde4e5c77772f733','skip','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',11,NULL,'{}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'save_weights_external: not supported by this service; save_weights_for_sampler and `tinsmith checkpoint export` give a plain PEFT folder','user',1.79596791202168607707e+09,1.79596791202207159993e+09,NULL);
INSERT INTO "operations" VALUES(13,'ef9e047488d28d0dbe179e0e8ffcce6a','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:12','a2729e06261dd151bd08395ffb7313c6','forward_backward','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',12,NULL,'{"wire": {"forward_only": false}}',X'0A2C65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A30100C1A440A080A060A040300000012160A0777656967687473120B0A040000803F180122010112200A0D7461726765745F746F6B656E73120F0A0803000000000000001802220101220D63726F73735F656E74726F7079',NULL,'c275580a74a011f853e757728821f2b0','failed',0,NULL,NULL,NULL,'out of memory','server',1.79596791202597928045e+09,1.79596791202881097791e+09,NULL);
INSERT INTO "operations" VALUES(14,'3b5c6eb6df1629d3bf874111a98d06f8','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:13','15c4e8aaacfb868ab3b29db3496f484e','optim_step','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',13,NULL,'{"op": {"adam": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0}}}',NULL,NULL,NULL,'failed',0,NULL,NULL,NULL,'optim_step: out of memory','user',1.7959679120320367813e+09,1.79596791203534102438e+09,NULL);
INSERT INTO "operations" VALUES(15,'1866c3f40e6d4c7bc112003da479b47d','serve','model:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:1','352575ac8b7d6b9efdf88611519d2a0b','load_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:1',NULL,NULL,'{"op": {"folder": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:1/loaded-be157a8e", "optimizer": false, "lora": {"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}, "next_seq": 1}, "wire": {"path": "tinker://e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s", "pinned": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:1/loaded-be157a8e"}}',NULL,NULL,NULL,'done',0,X'7B2274797065223A226C6F61645F77656967687473222C226D6F64656C5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A31222C2270617468223A2274696E6B65723A2F2F65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A302F776569676874732F73227D',NULL,'application/json',NULL,NULL,1.79596791203904485706e+09,1.79596791205335831647e+09,NULL);
INSERT INTO "operations" VALUES(16,'3ae3328596e21e77c19157e403650218','serve','model:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:2','cfc9afec22b2cf0ad0ffc0105a84ffea','load_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:2',NULL,NULL,'{}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'path: got ''tinker://nobody/weights/x'', expected a checkpoint of yours or a published one','user',1.79596791205709457395e+09,1.79596791205840086939e+09,NULL);
INSERT INTO "operations" VALUES(17,'3b98b47eebe7466e223a0512be5cd26b','serve','sample:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1:0','19e87ac6baf8207dbc057bb899c89d31','sample','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny',NULL,NULL,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1','{"wire": {"num_samples": 2}, "op": {"sampler_id": "e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1"}}',X'7B2273616D706C696E675F73657373696F6E5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A73616D706C653A31222C227365715F6964223A302C2270726F6D7074223A7B226368756E6B73223A5B7B2274797065223A22656E636F6465645F74657874222C22746F6B656E73223A5B312C322C335D7D5D7D2C226E756D5F73616D706C6573223A322C2273616D706C696E675F706172616D73223A7B226D61785F746F6B656E73223A342C2273656564223A333536333430363632343231353433343430392C2274656D7065726174757265223A312E302C22746F705F6B223A2D312C22746F705F70223A312E307D2C22746F706B5F70726F6D70745F6C6F6770726F6273223A302C22746F706B5F73616D706C655F6C6F6770726F6273223A302C2270726F6D70745F616C745F746F6B656E735F6B223A302C227265636F72645F73746162696C6974795F696E666F223A66616C73652C2274797065223A2273616D706C65227D',NULL,'4e6c7d7f91262d43561006793de97b4c','done',0,X'0A260801121046000000580000004D000000300000001A10000000800000008000000080000000800A2608011210060000004B00000036000000040000001A1000000080000000800000008000000080',NULL,'application/x-protobuf',NULL,NULL,1.79596791206543898583e+09,1.79596791207682728768e+09,NULL);
INSERT INTO "operations" VALUES(18,'f2af115c6de1b25fc5d10ee988243f26','serve','sample:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1:1','1e858bd35248060e0b522b65929c18a8','sample','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny',NULL,NULL,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1','{"wire": {"num_samples": 1024}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'num_samples: got 10000, expected 1 to 1024','user',1.79596791208029961592e+09,1.79596791208045029634e+09,NULL);
INSERT INTO "operations" VALUES(19,'79b34ef476e0c8bb961652f43b8867cb','serve',NULL,'','sample','ann',NULL,'',NULL,NULL,NULL,'{"wire": {"num_samples": 1}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'sampling_session_id: got ''nobody'', expected a sampling session of yours that has not ended','user',1.79596791208363580705e+09,1.79596791208364057537e+09,NULL);
INSERT INTO "operations" VALUES(20,'57ad79ddcd3a8d371ed1eb732da26046','serve',NULL,'','skip','ann',NULL,'',NULL,NULL,NULL,'{"wire": {}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'create_custom_loss: not supported by this service; forward_backward_custom computes any loss client-side','user',1.795967912106418848e+09,1.79596791210642719267e+09,NULL);
INSERT INTO "operations" VALUES(21,'2c76992faf50ad9679c742d60ed8fd16','serve',NULL,'','optim_step','ann',NULL,'',NULL,NULL,NULL,'{"wire": {}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'model_id: got ''nobody'', expected a training run of yours whose session has not ended','user',1.79596791211272645001e+09,1.79596791211273217199e+09,NULL);
INSERT INTO "operations" VALUES(22,'acf514f100769ad76c67467d50146b14','serve',NULL,'','forward_backward','ann',NULL,'',NULL,NULL,NULL,'{"wire": {"forward_only": true}}',NULL,NULL,NULL,'failed',1,NULL,NULL,NULL,'model_id: got ''nobody'', expected a training run of yours whose session has not ended','user',1.79596791211806845666e+09,1.79596791211807298659e+09,NULL);
INSERT INTO "operations" VALUES(23,'9dc5492d9190fb691938f1b890551f3f','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:14','1135e704bd12cf1e28a567638bd90ebb','forward_backward','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',14,NULL,'{"wire": {"forward_only": false}}',X'0A2C65363664396162372D363265322D343638652D396266652D3537343966663239343761333A747261696E3A30100E1A540A0C0A0A0A080400000005000000121A0A0777656967687473120F0A080000803F0000803F180122010212280A0D7461726765745F746F6B656E7312170A10040000000000000005000000000000001802220102220D63726F73735F656E74726F7079',NULL,'5aca8f1d24f14e722995b93774d9d8cf','pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791212071681025e+09,NULL,NULL);
INSERT INTO "operations" VALUES(24,'0f04a3085a5a82ff93b675ce87a333e8','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:15','c557b766b58fdcc6fa2c8fc4d5fd854a','optim_step','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',15,NULL,'{"op": {"adam": {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0, "grad_clip_norm": 0.0}}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791212276601793e+09,NULL,NULL);
INSERT INTO "operations" VALUES(25,'ed5bf17170bb2a787bec6abf2aec2bac','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:16','7eb81ae180325353ac6d9fa53a839096','save_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',16,NULL,'{"op": {"folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/later"}, "wire": {"name": "later", "kind": "weights", "checkpoint_folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/later", "ttl_seconds": 86400, "user_metadata": {"note": "\u00e9", "n": [1, null]}}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791212436819075e+09,NULL,NULL);
INSERT INTO "operations" VALUES(26,'702571e3465ac909fdf61c75947fe15f','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:17','e64703dfda9a2f28d4bda6df1abe3152','save_sampler','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',17,NULL,'{"op": {"folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/sampler_weights/later"}, "wire": {"name": "later", "kind": "sampler_weights", "checkpoint_folder": "checkpoints/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/sampler_weights/later", "ttl_seconds": null, "user_metadata": null}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791212724685672e+09,NULL,NULL);
INSERT INTO "operations" VALUES(27,'fc41d112059207971aabbc85fb682b0f','serve','train:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0:18','a4ffe8e41493d2c702277f952fed40e5','snapshot','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',18,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:2','{"op": {"sampler_id": "e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:2", "folder": "samplers/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:2"}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791213032913213e+09,NULL,NULL);
INSERT INTO "operations" VALUES(28,'ecd5883e0d32b61fc599bd9d6330314c','serve','sample:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1:2','7cf72276a42908957fdaf1a63dbc067e','sample','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny',NULL,NULL,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1','{"wire": {"num_samples": 3}, "op": {"sampler_id": "e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1"}}',X'7B2273616D706C696E675F73657373696F6E5F6964223A2265363664396162372D363265322D343638652D396266652D3537343966663239343761333A73616D706C653A31222C227365715F6964223A322C2270726F6D7074223A7B226368756E6B73223A5B7B2274797065223A22656E636F6465645F74657874222C22746F6B656E73223A5B312C322C335D7D5D7D2C226E756D5F73616D706C6573223A332C2273616D706C696E675F706172616D73223A7B226D61785F746F6B656E73223A342C2273656564223A313236333432313930323630393632333132302C2274656D7065726174757265223A312E302C22746F705F6B223A2D312C22746F705F70223A312E307D2C22746F706B5F70726F6D70745F6C6F6770726F6273223A302C22746F706B5F73616D706C655F6C6F6770726F6273223A302C2270726F6D70745F616C745F746F6B656E735F6B223A302C227265636F72645F73746162696C6974795F696E666F223A66616C73652C2274797065223A2273616D706C65227D',NULL,'7d100de21c5a9f6968508127a97b4f26','pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791213263273236e+09,NULL,NULL);
INSERT INTO "operations" VALUES(29,'0ca9f1380b9717e57f517ebc2a6a3866','serve','model:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:3','0e993b8bf52deef2f2df60cb5dbdefb9','load_state','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:3',NULL,NULL,'{"op": {"folder": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:3/loaded-48f5f4df", "optimizer": true, "lora": {"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}, "next_seq": 1}, "wire": {"path": "tinker://e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0/weights/s", "pinned": "recovery/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:3/loaded-48f5f4df"}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791213476228714e+09,NULL,NULL);
INSERT INTO "operations" VALUES(30,'8880d37f0f75fbe804337c1b4c5f827f','serve','model:e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:4','8ca571fbc5a4d256aefe71c5442b5b4c','create_model','ann','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','tiny','e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:4',NULL,NULL,'{"op": {"lora": {"rank": 8, "seed": 994442807, "train_unembed": true, "train_mlp": false, "train_attn": true}}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.7959679121402933597e+09,NULL,NULL);
INSERT INTO "operations" VALUES(31,'373cefeb98a3affe4e302658204403cd','serve','model:d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0','','load_state','ann','d4452e66-96eb-445e-b462-fd0f50c0e9fe','tiny','d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0',NULL,NULL,'{"op": {"folder": "recovery/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/loaded-065bb945", "optimizer": false, "lora": {"rank": 4, "seed": null, "train_unembed": false, "train_mlp": false, "train_attn": true}, "next_seq": 1}, "wire": {"path": "adapter mine", "import_key": "key-1", "save": {"name": "mine", "ttl_seconds": 7200, "user_metadata": {"from": "afar"}}, "pinned": "recovery/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/loaded-065bb945"}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791215154409412e+09,NULL,NULL);
INSERT INTO "operations" VALUES(32,'e131e0a7590ca06a5309cec75764e4d3','serve','train:d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0:1','58dd76e9110a119895e2cf236cea0a3a','save_state','ann','d4452e66-96eb-445e-b462-fd0f50c0e9fe','tiny','d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0',1,NULL,'{"op": {"folder": "checkpoints/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/weights/mine"}, "wire": {"name": "mine", "kind": "weights", "checkpoint_folder": "checkpoints/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/weights/mine", "ttl_seconds": 7200, "user_metadata": {"from": "afar"}}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791215386724464e+09,NULL,NULL);
INSERT INTO "operations" VALUES(33,'510403d771e3bf436dd2cdf238f392d0','serve','train:d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0:2','f03a3773feba71a967015e24646fb39b','save_sampler','ann','d4452e66-96eb-445e-b462-fd0f50c0e9fe','tiny','d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0',2,NULL,'{"op": {"folder": "checkpoints/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/sampler_weights/mine"}, "wire": {"name": "mine", "kind": "sampler_weights", "checkpoint_folder": "checkpoints/d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0/sampler_weights/mine", "ttl_seconds": 7200, "user_metadata": {"from": "afar"}}}',NULL,NULL,NULL,'pending',0,NULL,NULL,NULL,NULL,NULL,1.79596791215813064573e+09,NULL,NULL);
CREATE TABLE recovery_points (
	id INTEGER NOT NULL, 
	model_id TEXT NOT NULL, 
	seq_id BIGINT NOT NULL, 
	folder TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	CONSTRAINT pk_recovery_points PRIMARY KEY (id), 
	CONSTRAINT fk_recovery_points_model_id FOREIGN KEY(model_id) REFERENCES runs (id)
);
CREATE TABLE runs (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	base_model TEXT NOT NULL, 
	lora JSON NOT NULL, 
	status TEXT NOT NULL, 
	error TEXT, 
	user_metadata JSON, 
	created_at FLOAT NOT NULL, 
	last_request_at FLOAT NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT fk_runs_session_id FOREIGN KEY(session_id) REFERENCES sessions (id)
);
INSERT INTO "runs" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny','{"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}','live',NULL,'null',1.79596791192796969411e+09,1.79596791192796969411e+09);
INSERT INTO "runs" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:1','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny','{"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}','live',NULL,'null',1.79596791204934883119e+09,1.79596791204934883119e+09);
INSERT INTO "runs" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:3','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny','{"rank": 4, "seed": 3, "train_unembed": true, "train_mlp": true, "train_attn": true}','creating',NULL,'null',1.79596791213784599304e+09,1.79596791213784599304e+09);
INSERT INTO "runs" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:4','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny','{"rank": 8, "seed": 994442807, "train_unembed": true, "train_mlp": false, "train_attn": true}','creating',NULL,'null',1.7959679121404428482e+09,1.7959679121404428482e+09);
INSERT INTO "runs" VALUES('d4452e66-96eb-445e-b462-fd0f50c0e9fe:train:0','d4452e66-96eb-445e-b462-fd0f50c0e9fe','ann','tiny','{"rank": 4, "seed": null, "train_unembed": false, "train_mlp": false, "train_attn": true}','creating',NULL,'null',1.79596791215161514284e+09,1.79596791215161514284e+09);
CREATE TABLE samplers (
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	base_model TEXT NOT NULL, 
	model_path TEXT, 
	folder TEXT, 
	on_disk BOOLEAN NOT NULL, 
	model_id TEXT, 
	model_seq BIGINT, 
	created_at FLOAT NOT NULL, 
	CONSTRAINT pk_samplers PRIMARY KEY (id), 
	CONSTRAINT fk_samplers_session_id FOREIGN KEY(session_id) REFERENCES sessions (id)
);
INSERT INTO "samplers" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:0','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny',NULL,'samplers/e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:0',1,'e66d9ab7-62e2-468e-9bfe-5749ff2947a3:train:0',6,1.79596791199025440219e+09);
INSERT INTO "samplers" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3:sample:1','e66d9ab7-62e2-468e-9bfe-5749ff2947a3','ann','tiny',NULL,NULL,1,NULL,NULL,1.79596791206260418894e+09);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	instance TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	status TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	last_seen_at FLOAT NOT NULL, 
	ended_at FLOAT, 
	end_reason TEXT, 
	end_detail TEXT, 
	project_id TEXT, 
	display_name TEXT, 
	sdk_version TEXT NOT NULL, 
	tags JSON NOT NULL, 
	user_metadata JSON NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (id)
);
INSERT INTO "sessions" VALUES('e66d9ab7-62e2-468e-9bfe-5749ff2947a3','serve','ann','active',1.79596791192361378668e+09,1.79596791192361378668e+09,NULL,NULL,NULL,NULL,NULL,'0.38.0','[]','{}');
INSERT INTO "sessions" VALUES('d4452e66-96eb-445e-b462-fd0f50c0e9fe','serve','ann','closing',1.79596791214659667014e+09,1.79596791214659667014e+09,NULL,'success',NULL,NULL,'import of mine','','[]','{}');
CREATE INDEX ix_operations_instance ON operations (instance);
CREATE INDEX ix_operations_model_id_seq_id ON operations (model_id, seq_id);
CREATE INDEX ix_sessions_instance ON sessions (instance);
CREATE INDEX ix_sessions_owner ON sessions (owner);
CREATE INDEX ix_runs_owner ON runs (owner);
CREATE INDEX ix_runs_session_id ON runs (session_id);
CREATE INDEX ix_samplers_session_id ON samplers (session_id);
CREATE INDEX ix_checkpoints_expires_at ON checkpoints (expires_at);
CREATE INDEX ix_checkpoints_owner ON checkpoints (owner);
CREATE INDEX ix_recovery_points_model_id ON recovery_points (model_id);
COMMIT;
