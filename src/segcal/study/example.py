"""The configuration that `segcal study --example` prints: every entry with what it means."""

EXAMPLE = """\
# A study: calibrate an ensemble on repeated random partitions of labelled held-out cases, and report every pipeline
# with intervals.
# Paths are relative to this file; $NAME is an environment variable; a pattern stands for the folders it matches.
name: my data
# modality: 3D CT                   # for Table 1, where no dataset.json tells it
# training_cases: 210               # cases the networks were trained on, for Table 1; likewise

data:
  results: predictions/member*      # folders of predictions, members of an ensemble (npz, npy, zarr, NIfTI, nnU-Net)
  labels: labels                    # one label map a case, named as it
  # kind: logits                    # logits, log_probs, probs or scores, where the files do not say
  # classes: [sky, road, car]       # where no dataset.json names them
  # background: 0                   # left out of Dice and IoU; none if there is none
  # ignore_index: 255               # a label that is never scored; [254, 255] for several
  # label_map: {4: 3}               # labels 4 are class 3; for labels that are not numbered as the channels
  # images: images                  # for pictures, and for methods that look at images
  # copies: copies                  # as segcal copies writes it, for susceptibility
  # cases: ['patient_0*']           # only these
  # exclude: ['patient_07']         # not these

split:                              # in each repeat; whole groups are dealt out in a random order
  calibration: 50                   # fitted on
  validation: 25                    # penalties' strengths, stopping and trials are chosen by these
  # test: 100                       # reported on; default: all that are left
  # groups: groups.csv              # cases that belong together: a table (case, group), consecutive:20,
  #                                 # consecutive:20:^([^_]+), or a pattern
  # gap: 2                          # frames left out between neighbouring runs of consecutive frames

repeats: 3
seed: 0

# pipelines: [p0, pbar, zbar, TS(pbar), MS(zbar), LTS(logS(zbar))]   # default: the paper's nineteen;
#                                                                    # any method goes as iop(zbar)
# methods:                          # options of methods
#   lts: {epochs: 40}
#   dc: {penalty: odir}             # the papers' penalty instead of the one towards temperature scaling

# cohorts:                          # scored without refit; cases of the same names follow the partition, others are
#                                   # always scored. mild: written after segcal corrupt images -o images-mild ...
#   mild: {results: predictions-mild/member*, labels: labels, images: images-mild}   # images: for Figure 7
#   other hospital: {results: elsewhere/member*, labels: elsewhere/labels}

# sensitivity:
#   sizes: [5, 10, 25]              # further calibration set sizes; the test split stays, validation takes the rest

# recipe: {trials: 20, epochs: 200, sample: true} # the papers' own recipe beside the exact solvers

# bins: [20, 30, 40]                # beside 15 (ACE) and 50 (ECE)
# bands: [3, 7, 15]                # of BA-ECE, with distance: voxels (or mm, where files know their spacing)
# objects: true                     # also the ECE of boundary and interior within the bounding boxes of objects
# replicates: 2000                  # bootstrap
# samples: 3                        # test cases kept as pictures
"""
