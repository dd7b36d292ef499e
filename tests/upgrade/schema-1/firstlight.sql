BEGIN TRANSACTION;
CREATE TABLE annotations (
	project_id INTEGER NOT NULL, 
	id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	created_at VARCHAR NOT NULL, 
	cancelled BOOLEAN NOT NULL, 
	ground_truth BOOLEAN NOT NULL, 
	result TEXT NOT NULL, 
	problem TEXT NOT NULL, 
	PRIMARY KEY (project_id, id)
);
INSERT INTO "annotations" VALUES(1,9,2,'2027-01-15T08:00:02.000000Z','2027-01-15T08:00:02.000000Z',0,0,'[{"id": "3e59f6c7-32d2-5158-9400-769e402284e8", "to_name": "image", "original_width": 32, "original_height": 32, "image_rotation": 0, "score": 1.0, "from_name": "tag", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 16, 0, 57, 27, 255, 3, 175, 0, 159, 255, 57, 128, 95, 255, 205, 224, 23, 255, 240, 184, 4, 255, 249, 44, 3, 9, 255, 225, 48, 11, 127, 249, 44, 3, 9, 255, 225, 48, 11, 127, 249, 28, 3, 11, 255, 223, 0, 191, 255, 145, 192, 48, 191, 253, 240, 11, 255, 249, 28, 3, 11, 255, 219, 0, 194, 127, 249, 12, 3, 11, 255, 225, 48, 11, 255, 249, 12, 3, 9, 255, 225, 112, 11, 255, 249, 12, 3, 9, 255, 225, 176, 11, 127, 249, 12, 3, 9, 255, 225, 112, 11, 255, 249, 60, 2, 127, 252, 46, 1, 127, 255, 55, 128, 91, 255, 206, 224, 19, 255, 240, 82, 112, 0], "brushlabels": ["Lung"]}}]','');
INSERT INTO "annotations" VALUES(1,10,3,'2027-01-15T08:00:02.000020Z','2027-01-15T08:00:02.000020Z',0,0,'[{"id": "3b019d27-4e66-55da-a822-a0b72f01a79b", "to_name": "image", "original_width": 32, "original_height": 32, "image_rotation": 0, "score": 1.0, "from_name": "tag", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 16, 0, 57, 27, 255, 2, 31, 0, 159, 255, 19, 128, 91, 255, 199, 224, 22, 255, 241, 56, 5, 255, 252, 110, 1, 132, 255, 240, 248, 6, 23, 255, 198, 96, 24, 79, 255, 15, 128, 97, 127, 252, 102, 1, 133, 255, 240, 216, 6, 23, 255, 198, 96, 24, 95, 255, 13, 128, 97, 127, 252, 94, 1, 134, 255, 240, 216, 6, 27, 255, 197, 96, 24, 111, 255, 11, 128, 97, 255, 252, 86, 1, 135, 255, 240, 152, 6, 31, 255, 197, 96, 24, 127, 255, 9, 128, 97, 255, 252, 86, 1, 135, 255, 240, 184, 6, 27, 255, 197, 96, 24, 127, 255, 13, 128, 97, 127, 252, 86, 1, 135, 255, 240, 248, 6, 19, 255, 197, 96, 24, 127, 255, 15, 128, 97, 63, 252, 86, 1, 135, 255, 240, 248, 6, 19, 255, 197, 96, 24, 127, 255, 15, 128, 97, 63, 252, 86, 1, 135, 255, 240, 248, 4, 127, 243, 128, 79, 255, 138, 192, 48, 255, 254, 99, 0, 159, 254, 216, 4, 127, 252, 19, 60, 0], "brushlabels": ["Lung"]}}]','');
INSERT INTO "annotations" VALUES(1,11,4,'2027-01-15T08:00:04.000000Z','2027-01-15T08:00:04.000000Z',0,0,'[{"id": "493e1d14-b6e7-59ad-8663-76a7bff31d21", "to_name": "image", "original_width": 32, "original_height": 32, "image_rotation": 0, "score": 1.0, "from_name": "tag", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 16, 0, 57, 27, 255, 3, 27, 0, 183, 255, 137, 192, 45, 255, 227, 240, 11, 255, 248, 124, 3, 9, 255, 227, 112, 12, 39, 255, 135, 192, 48, 191, 254, 51, 0, 194, 255, 248, 108, 3, 11, 255, 227, 48, 12, 47, 255, 133, 192, 48, 223, 254, 47, 0, 195, 127, 248, 92, 3, 13, 255, 226, 240, 12, 63, 255, 132, 192, 48, 255, 254, 43, 0, 195, 255, 248, 76, 3, 15, 255, 226, 176, 12, 63, 255, 132, 192, 48, 255, 254, 43, 0, 195, 255, 248, 92, 3, 13, 255, 226, 176, 12, 63, 255, 134, 192, 48, 191, 254, 43, 0, 195, 127, 248, 124, 3, 11, 255, 226, 176, 12, 55, 255, 135, 192, 48, 191, 254, 43, 0, 195, 127, 248, 140, 3, 9, 255, 226, 176, 12, 55, 255, 136, 192, 48, 159, 254, 43, 0, 195, 127, 248, 140, 3, 9, 255, 226, 240, 8, 255, 239, 128, 71, 255, 136, 192, 48, 159, 255, 4, 151, 0, 0], "brushlabels": ["Lung"]}}]','');
INSERT INTO "annotations" VALUES(1,12,5,'2027-01-15T08:00:04.000020Z','2027-01-15T08:00:04.000020Z',1,0,'[]','');
CREATE TABLE draft_scores (
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	version VARCHAR NOT NULL, 
	created_at VARCHAR NOT NULL, 
	dice DOUBLE NOT NULL, 
	PRIMARY KEY (project_id, task_id)
);
INSERT INTO "draft_scores" VALUES(1,4,'attention-unet r0002 53ca9b','2027-01-15T08:00:04.000000Z',1.86666666666666675178e-01);
CREATE TABLE embeddings (
	project_id INTEGER NOT NULL, 
	encoder VARCHAR NOT NULL, 
	task_id INTEGER NOT NULL, 
	chunk VARCHAR NOT NULL, 
	"row" INTEGER NOT NULL, 
	PRIMARY KEY (project_id, encoder, task_id)
);
INSERT INTO "embeddings" VALUES(1,'pixels',2,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',0);
INSERT INTO "embeddings" VALUES(1,'pixels',3,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',1);
INSERT INTO "embeddings" VALUES(1,'pixels',4,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',2);
INSERT INTO "embeddings" VALUES(1,'pixels',5,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',3);
INSERT INTO "embeddings" VALUES(1,'pixels',6,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',4);
INSERT INTO "embeddings" VALUES(1,'pixels',7,'845e98878bb15346d00c7e3060a42873d97bbc63.npy',5);
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('installation','f07b3587');
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('pinned in project 1','attention-unet r0002 53ca9b');
CREATE TABLE models (
	project_id INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	labels INTEGER NOT NULL, 
	created_at DOUBLE NOT NULL, 
	classes JSON NOT NULL, 
	trained_on JSON NOT NULL, 
	accepted BOOLEAN NOT NULL, 
	quality JSON NOT NULL, 
	PRIMARY KEY (project_id, "key")
);
INSERT INTO "models" VALUES(1,'53ca9b4cfaf224b225900408830c0161254db7b2',2,1800000003.0,'["Lung"]','[2, 3]',1,'{"train_seconds": 9.3, "started_from": ""}');
INSERT INTO "models" VALUES(1,'1da6ddcf210c9b6396c2229702d456439e1d9142',3,1800000005.0,'["Lung"]','[2, 3, 4]',1,'{"train_seconds": 0.6, "started_from": ""}');
CREATE TABLE projects (
	id INTEGER NOT NULL, 
	wanted INTEGER NOT NULL, 
	done INTEGER NOT NULL, 
	full_sync BOOLEAN NOT NULL, 
	gone BOOLEAN NOT NULL, 
	title VARCHAR NOT NULL, 
	hostname VARCHAR NOT NULL, 
	label_config TEXT NOT NULL, 
	options JSON NOT NULL, 
	seen JSON NOT NULL, 
	full_synced_at DOUBLE NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	live_version VARCHAR NOT NULL, 
	step VARCHAR NOT NULL, 
	step_at DOUBLE NOT NULL, 
	progress JSON NOT NULL, 
	warnings JSON NOT NULL, 
	options_problem VARCHAR NOT NULL, 
	problem VARCHAR NOT NULL, 
	mend VARCHAR NOT NULL, 
	problem_at DOUBLE NOT NULL, 
	failures INTEGER NOT NULL, 
	not_before DOUBLE NOT NULL, 
	started_at DOUBLE NOT NULL, 
	publish_seconds DOUBLE NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "projects" VALUES(1,3,3,0,0,'Lungs','','<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Lung"/></BrushLabels></View>','{"cold_start_budget": 2, "cold_start": "medoids", "acquisition": "entropy-diversity", "alpha": 0.3, "uncertainty": "entropy", "projection": "pca", "encoder": null, "batch_size": 10, "horizon": 1000, "group_by": "", "training": "scratch", "retrain_after": 1, "min_seconds_between_rounds": 0.0, "max_train_seconds": 300.0, "image_size": 32, "random_fraction": 0.0, "prelabels": true, "prelabel_after": 2, "prelabel_min_dice": 0.5, "paused": false, "seed": 0}','{"task_number": 7, "total_annotations_number": 3, "skipped_annotations_number": 1, "ground_truth_number": 0, "newest_update": "2027-01-15T08:00:04.000030Z", "label_config": "ffd21d7737b21b787be263426d33af98243888b4", "extra_params": {"cold_start_budget": 2, "image_size": 32, "projection": "pca", "prelabel_after": 2, "min_seconds_between_rounds": 0}}',1800000001.0,'1be84cfa49a7c2b60032156f392758748b585335','attention-unet r0003 1da6dd','',1800000005.0,'{}','[]','','','',0.0,0,1800000005.0,1800000005.0,0.0);
CREATE TABLE rounds (
	project_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	workflow VARCHAR NOT NULL, 
	started_at DOUBLE NOT NULL, 
	ended_at DOUBLE NOT NULL, 
	record JSON NOT NULL, 
	PRIMARY KEY (project_id, number), 
	UNIQUE (workflow)
);
INSERT INTO "rounds" VALUES(1,1,'a5cb413d-e77a-4c8d-bc64-597136017a93',1800000001.0,1800000001.0,'{"seconds": {"select": 0.0, "publish": 0.0, "switch": 0.0}, "version": "cold-start r0001 f07b35"}');
INSERT INTO "rounds" VALUES(1,2,'a0e5754e-9a90-4d37-b7e5-1eb3cdcc26b4',1800000003.0,1800000003.0,'{"seconds": {"train": 0.0, "select": 0.0, "draft": 0.0, "publish": 0.0, "switch": 0.0}, "version": "attention-unet r0002 53ca9b"}');
INSERT INTO "rounds" VALUES(1,3,'b7e6a7f2-b574-4fd6-abbb-de3c31c54cb2',1800000005.0,1800000005.0,'{"seconds": {"train": 0.0, "select": 0.0, "draft": 0.0, "publish": 0.0, "switch": 0.0}, "version": "attention-unet r0003 1da6dd"}');
CREATE TABLE splits (
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	validation BOOLEAN NOT NULL, 
	PRIMARY KEY (project_id, task_id)
);
INSERT INTO "splits" VALUES(1,2,0);
INSERT INTO "splits" VALUES(1,3,0);
INSERT INTO "splits" VALUES(1,4,0);
CREATE TABLE tasks (
	project_id INTEGER NOT NULL, 
	id INTEGER NOT NULL, 
	url TEXT NOT NULL, 
	"group" VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	is_labeled BOOLEAN NOT NULL, 
	height INTEGER NOT NULL, 
	width INTEGER NOT NULL, 
	pixels VARCHAR NOT NULL, 
	problem TEXT NOT NULL, 
	retry_at DOUBLE NOT NULL, 
	pause DOUBLE DEFAULT '0' NOT NULL, 
	PRIMARY KEY (project_id, id)
);
INSERT INTO "tasks" VALUES(1,2,'/data/upload/1/2.png','','2027-01-15T08:00:02.000010Z',1,32,32,'0550756446ddfd55c58c43d143cffc0a','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,3,'/data/upload/1/3.png','','2027-01-15T08:00:02.000030Z',1,32,32,'e8e5e1f1d990f64d944f25785048dbda','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,4,'/data/upload/1/4.png','','2027-01-15T08:00:04.000010Z',1,32,32,'2fb77d1e8e46cf3d1bae22863fdad0b8','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,5,'/data/upload/1/5.png','','2027-01-15T08:00:04.000030Z',0,32,32,'4b1fe688473d8e1d918e980d29745a1d','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,6,'/data/upload/1/6.png','','2027-01-15T08:00:00.000040Z',0,32,32,'ab897070984cdf630bc4d95ac8899cf0','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,7,'/data/upload/1/7.png','','2027-01-15T08:00:00.000050Z',0,32,32,'bfac6057f9446f60d0d9450d9f3c16c9','',0.0,0.0);
INSERT INTO "tasks" VALUES(1,8,'/data/upload/1/8.png','','2027-01-15T08:00:00.000060Z',0,0,0,'','Task 8: The image is neither PNG nor JPEG nor TIFF, WebP, BMP, GIF or DICOM. Put an image of one of these kinds in the task.',1800000601.0,600.0);
CREATE TABLE versions (
	project_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	model_key VARCHAR NOT NULL, 
	labels INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	published JSON NOT NULL, 
	drafts VARCHAR NOT NULL, 
	created_at DOUBLE NOT NULL, 
	live_at DOUBLE NOT NULL, 
	PRIMARY KEY (project_id, name)
);
INSERT INTO "versions" VALUES(1,'cold-start r0001 f07b35',1,1,'',0,'previous','[6, 2, 7, 4, 5, 3, 8]','',1800000001.0,1800000001.0);
INSERT INTO "versions" VALUES(1,'attention-unet r0002 53ca9b',2,1,'53ca9b4cfaf224b225900408830c0161254db7b2',2,'previous','[7, 4, 6, 5, 8]','0002.json',1800000003.0,1800000003.0);
INSERT INTO "versions" VALUES(1,'attention-unet r0003 1da6dd',3,1,'1da6ddcf210c9b6396c2229702d456439e1d9142',3,'live','[7, 6, 5, 8]','0003.json',1800000005.0,1800000005.0);
CREATE INDEX ix_annotations_task_id ON annotations (task_id);
COMMIT;
