"""Ways to write where a webhook must not go. Each URL leads inside, or would in some parser."""

ADDRESSES = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255"),
    *("100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.7"),
    *("168.63.129.16", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8"),
    *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1"),
    *("2002:7f00:1::1", "2002:808:808::1", "2001:0:7f00:1::", "2001::1", "2001:10::1"),
    *("2001:2::1", "2001:20::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"),
    *("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "2620:4f:8000::1"),
)
"""By address: what DNS may answer."""

URLS = (
    *(f"https://{f'[{one}]' if ':' in one else one}/hook" for one in ADDRESSES),
    "https://2130706433/",  # decimal
    "https://017700000001/",  # octal
    "https://0x7f000001/",  # hexadecimal
    "https://0x7f.0x0.0x0.0x1/",
    "https://0177.0.0.1/",
    "https://127.1/",  # short
    "https://127.0.1/",
    "https://0/",
    "https://00000.0.0.0/",
    "https://127.0.0.1./",  # the root's dot
    "https://127.0.0.01/",
    "https://3232235777/",
    "https://4294967296/",
    "https://①②⑦.⓪.⓪.①/",  # equal to digits, after NFKC
    "https://127。0。0。1/",
    "https://%31%32%37.0.0.1/",
    "https://[::ffff:7f00:1]/",
    "https://[0:0:0:0:0:ffff:127.0.0.1]/",
    "https://[fe80::1%25eth0]/",  # a zone
    "https://[::1%25lo]/",
    "https://[::1]:443/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://printer.local/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://router.home.arpa/",
    "https://postgres/",  # a name of the network inside
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1:443@example.com/",
    "https://example.com#@127.0.0.1/",
    "https://127.0.0.1\\@example.com/",
    "https://127.0.0.1\t/",
    "https://127.0.0.1%00.example.com/",
    "https://127.0.0.1 .example.com/",
)
