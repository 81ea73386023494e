"""Images as another camera or scanner might have taken them, to ask of a calibrator how it does where it was not
fitted.

    photometric   noise, blur, brightness, JPEG and fog on pictures, mild and strong
    artefacts     bias field, motion, ghosting and spikes on MRI volumes, through TorchIO
    folder        a folder of images in, the same names out, and a table of what was done to each

The network runs on the changed images, the calibrator is applied as it was fitted on clean ones, and labels stay as
they are. A natural shift (another hospital, another camera) needs nothing from here: it is a second cohort.
"""
