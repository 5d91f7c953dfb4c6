"""Certificates as cert-manager and CloudNativePG make them: a CA, and of it the servers'."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

LIFE = timedelta(days=1)
USES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Authority(Struct, frozen=True, kw_only=True):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def authority(
    name: str = "tuneyard-nats", key: ec.EllipticCurvePrivateKey | None = None
) -> Authority:
    """A new CA; with the ``key`` of a former one of this name, that one renewed."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        _begun(subject, subject, key, ends_in=LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key=key, certificate=made)


def issue(
    folder: Path,
    of: Authority,
    names: Sequence[str] = ("localhost",),
    *,
    ends_in: timedelta = LIFE,
    trusted: Authority | None = None,
) -> Path:
    """Write what a Secret of cert-manager's holds into the folder: ``tls.crt``, ``tls.key``, and in
    ``ca.crt`` the CA that signed it (or the one to be ``trusted``). Gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    key, nobody = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    issuer = of.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        _begun(nobody, of.certificate.subject, key, ends_in=ends_in)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage(USES), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .sign(of.key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes((trusted or of).pem)
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ends_in: timedelta
) -> x509.CertificateBuilder:
    now, public = datetime.now(UTC), key.public_key()
    return (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        .not_valid_before(now + ends_in - LIFE - LIFE)
        .not_valid_after(now + ends_in)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
