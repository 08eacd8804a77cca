"""The attacks by name; an attack's module is imported when it is asked for."""

ATTACKS = {
    "badnets": "edgekd.attacks.badnets:BadNets",
    "blended": "edgekd.attacks.blended:Blended",
    "noise-blend": "edgekd.attacks.noise_blend:NoiseBlend",
    "sig": "edgekd.attacks.sig:SIG",
    "lf": "edgekd.attacks.lf:LowFrequency",
    "tact": "edgekd.attacks.tact:TaCT",
    "adap-blend": "edgekd.attacks.adap_blend:AdapBlend",
    "adap-patch": "edgekd.attacks.adap_patch:AdapPatch",
    "trojan-wm": "edgekd.attacks.trojan_wm:TrojanWM",
    "wanet": "edgekd.attacks.wanet:WaNet",
    "bpp": "edgekd.attacks.bpp:BPP",
    "input-aware": "edgekd.attacks.input_aware:InputAware",
    "trojannn": "edgekd.attacks.trojannn:TrojanNN",
    "label-consistent": "edgekd.attacks.label_consistent:LabelConsistent",
    "cheatkd": "edgekd.attacks.cheatkd:CheatKD",
    "latent": "edgekd.attacks.latent:Latent",
    "leak": "edgekd.attacks.leak:Leak",
    "adba": "edgekd.attacks.adba:ADBA",
    "scar": "edgekd.attacks.scar:SCAR",
}

# What harms those who distil and obeys no trigger.
SABOTAGE = {
    "nasty": "edgekd.attacks.nasty:Nasty",
}
