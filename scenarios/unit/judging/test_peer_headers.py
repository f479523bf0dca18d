"""The headers that BCC's tools are compiled with, without those of a kernel."""

from lab.judging import peer_headers


def test_every_file_that_a_tool_includes(tmp_path, monkeypatch):
    """Those of sockets lead to one file; those that bcc/proto.h includes are there, and empty: it declares the types itself."""
    monkeypatch.setattr(peer_headers.headers, "write_tree", lambda _: None)
    monkeypatch.setattr(peer_headers.headers, "user_include_flags", lambda: ["-isystem", "/one", "-isystem", "/two"])
    monkeypatch.setattr(peer_headers, "_struct", lambda name, *_: f"struct {name};")
    environment = peer_headers.write_tree(tmp_path)
    assert environment == {"BCC_KERNEL_SOURCE": str(tmp_path), "CPATH": "/one:/two"}
    found = {str(path.relative_to(tmp_path / "include")): path.read_text() for path in tmp_path.rglob("*.h")}
    included = {f"uapi/linux/{name}.h" for name in ("if_ether", "in", "ip", "tcp", "udp")}
    assert {name for name, text in found.items() if not text} == included
    leading = {f"net/{name}.h" for name in ("inet_sock", "tcp", "tcp_states", "net_namespace")}
    assert {name for name, text in found.items() if text == "#include <net/sock.h>\n"} == leading
    assert set(found) == included | leading | {"net/sock.h", "uapi/linux/ptrace.h"}
    for name in ("net", "sock_common", "sock", "inet_sock", "tcp_sock", "sk_buff", "tcp_skb_cb"):
        assert f"struct {name};" in found["net/sock.h"]
