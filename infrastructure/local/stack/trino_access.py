"""How clients get into Trino: a private authority, certificates of server and client, a key for tokens, a password."""

import datetime
import ipaddress
from pathlib import Path

import bcrypt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stack.files import private_folder, write_private

CLIENT = "lakehouse"
DAYS = 3650


def ensure(folder: Path) -> None:
    """Make what is missing, all at once: `jwt-public.pem` is written last."""
    if (folder / "jwt-public.pem").exists():
        return
    private_folder(folder)
    authority_key, server_key, client_key, signing_key = (rsa.generate_private_key(65537, 2048) for _ in range(4))
    authority = _certificate("lakehouse local stack", authority_key, None, authority_key)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = _certificate(
        "localhost", server_key, authority, authority_key, names=names, usage=ExtendedKeyUsageOID.SERVER_AUTH
    )
    client = _certificate(CLIENT, client_key, authority, authority_key, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    write_private(folder / "ca.pem", _pem(authority))
    write_private(folder / "server.pem", _private(server_key) + _pem(server))
    write_private(folder / "client.pem", _pem(client))
    write_private(folder / "client.key", _private(client_key))
    write_private(folder / "jwt.key", _private(signing_key))
    public = signing_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_private(folder / "jwt-public.pem", public.decode())


def password_line(user: str, password: str) -> str:
    """A line of Trino's password file. It knows the prefixes 2a and 2y, not Python's own 2b."""
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(10, prefix=b'2a')).decode()}\n"


def _certificate(
    name: str,
    key: rsa.RSAPrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: rsa.RSAPrivateKey,
    *,
    names: x509.SubjectAlternativeName | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signs = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=signs, crl_sign=signs, key_encipherment=not signs,
                content_commitment=False, data_encipherment=False, key_agreement=False,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if names:
        builder = builder.add_extension(names, critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
