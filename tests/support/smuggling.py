"""Requests whose framing or form is wrong, each with the one answer it may get.

The shapes follow what other servers were broken by; see the names. `CHAIN` is what an attacker
would like to be taken as a request of its own.
"""

from __future__ import annotations

CHAIN = b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def post(fields: bytes, body: bytes = b"", line: bytes = b"POST / HTTP/1.1") -> bytes:
    return line + b"\r\n" + HOST + fields + b"\r\n" + body


def chunked(body: bytes, fields: bytes = b"") -> bytes:
    return post(CHUNKED + fields, body)


def line(text: bytes) -> bytes:
    return text + b"\r\n" + HOST + b"\r\n"


def field(text: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + text + b"\r\n\r\n"


END = b"0\r\n\r\n"

LENGTHS = {
    "length_and_chunked": (post(b"Content-Length: 5\r\n" + CHUNKED, END), 400),
    "chunked_and_length": (post(CHUNKED + b"Content-Length: 5\r\n", END), 400),
    "chunked_and_length_0": (post(CHUNKED + b"Content-Length: 0\r\n", END), 400),
    "two_lengths_differ": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), 400),
    "two_lengths_equal": (post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), 400),
    "length_list": (post(b"Content-Length: 5, 5\r\n", b"hello"), 400),
    "length_list_differs": (post(b"Content-Length: 5,6\r\n", b"hello"), 400),
    "length_plus": (post(b"Content-Length: +5\r\n", b"hello"), 400),
    "length_minus": (post(b"Content-Length: -5\r\n", b"hello"), 400),
    "length_minus_0": (post(b"Content-Length: -0\r\n"), 400),
    "length_hex": (post(b"Content-Length: 0x5\r\n", b"hello"), 400),
    "length_float": (post(b"Content-Length: 5.0\r\n", b"hello"), 400),
    "length_exponent": (post(b"Content-Length: 5e0\r\n", b"hello"), 400),
    "length_underscore": (post(b"Content-Length: 1_0\r\n", b"hello"), 400),
    "length_inner_space": (post(b"Content-Length: 1 0\r\n", b"hello"), 400),
    "length_empty": (post(b"Content-Length:\r\n"), 400),
    "length_blank": (post(b"Content-Length: \t \r\n"), 400),
    "length_word": (post(b"Content-Length: five\r\n", b"hello"), 400),
    "length_quoted": (post(b'Content-Length: "5"\r\n', b"hello"), 400),
    "length_semicolon": (post(b"Content-Length: 5;\r\n", b"hello"), 400),
    "length_2_63": (post(b"Content-Length: 9223372036854775808\r\n"), 400),
    "length_2_64": (post(b"Content-Length: 18446744073709551616\r\n"), 400),
    "length_2_64_and_5": (post(b"Content-Length: 18446744073709551621\r\n", b"hello"), 400),
    "length_20_zeros": (post(b"Content-Length: 00000000000000000005\r\n", b"hello"), 400),
    "length_arabic_digit": (post("Content-Length: ٥\r\n".encode(), b"hello"), 400),
    "length_superscript": (post(b"Content-Length: \xb2\r\n", b"hello"), 400),
    "length_vertical_tab": (post(b"Content-Length:\x0b5\r\n", b"hello"), 400),
    "length_form_feed": (post(b"Content-Length: 5\x0c\r\n", b"hello"), 400),
    "length_nul": (post(b"Content-Length: 5\x00\r\n", b"hello"), 400),
    "length_underscored_name": (post(b"Content_Length: 5\r\n", b"hello"), 400),
    "length_folded": (post(b"Content-Length:\r\n 5\r\n", b"hello"), 400),
    "length_space_before_colon": (post(b"Content-Length : 5\r\n", b"hello"), 400),
    "length_tab_before_colon": (post(b"Content-Length\t: 5\r\n", b"hello"), 400),
    "length_leading_space": (post(b" Content-Length: 5\r\n", b"hello"), 400),
    "get_length_list": (field(b"Content-Length: 0,0"), 400),
}

CODINGS = {
    "coding_twice": (post(CHUNKED + CHUNKED, END), 400),
    "coding_and_identity_fields": (post(CHUNKED + b"Transfer-Encoding: identity\r\n", END), 400),
    "coding_identity": (post(b"Transfer-Encoding: identity\r\n"), 501),
    "coding_gzip": (post(b"Transfer-Encoding: gzip\r\n", END), 501),
    "coding_gzip_chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", END), 501),
    "coding_chunked_gzip": (post(b"Transfer-Encoding: chunked, gzip\r\n", END), 400),
    "coding_chunked_chunked": (post(b"Transfer-Encoding: chunked, chunked\r\n", END), 400),
    "coding_chunked_identity": (post(b"Transfer-Encoding: chunked, identity\r\n", END), 400),
    "coding_identity_chunked": (post(b"Transfer-Encoding: identity, chunked\r\n", END), 501),
    "coding_comma_before": (post(b"Transfer-Encoding: , chunked\r\n", END), 400),
    "coding_comma_after": (post(b"Transfer-Encoding: chunked,\r\n", END), 400),
    "coding_prefix": (post(b"Transfer-Encoding: xchunked\r\n", END), 501),
    "coding_suffix": (post(b"Transfer-Encoding: chunkedx\r\n", END), 501),
    "coding_parameter": (post(b"Transfer-Encoding: chunked;q=1\r\n", END), 501),
    "coding_quoted": (post(b'Transfer-Encoding: "chunked"\r\n', END), 501),
    "coding_empty": (post(b"Transfer-Encoding:\r\n", END), 400),
    "coding_inner_tab": (post(b"Transfer-Encoding: chun\tked\r\n", END), 501),
    "coding_vertical_tab": (post(b"Transfer-Encoding:\x0bchunked\r\n", END), 400),
    "coding_trailing_vertical_tab": (post(b"Transfer-Encoding: chunked\x0b\r\n", END), 400),
    "coding_trailing_nul": (post(b"Transfer-Encoding: chunked\x00\r\n", END), 400),
    "coding_high_byte": (post(b"Transfer-Encoding: chunked\xa0\r\n", END), 501),
    "coding_space_before_colon": (post(b"Transfer-Encoding : chunked\r\n", END), 400),
    "coding_underscored_name": (post(b"Transfer_Encoding: chunked\r\n", END), 400),
    "coding_folded": (post(b"Transfer-Encoding:\r\n chunked\r\n", END), 400),
    "coding_after_bare_lf": (post(b"X: y\nTransfer-Encoding: chunked\r\n", END), 400),
    "coding_after_bare_cr": (post(b"X: y\rTransfer-Encoding: chunked\r\n", END), 400),
    "coding_name_high_byte": (post(b"Transfer-Encoding\xff: chunked\r\n", END), 400),
    "coding_in_http_1_0": (
        b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n" + END,
        400,
    ),
    "coding_in_http_1_0_kept": (
        b"POST / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n" + CHUNKED + b"\r\n" + END,
        400,
    ),
    "coding_of_get": (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: x\r\n\r\n", 501),
}

CHUNKS = {
    "chunk_size_missing": (chunked(b"\r\nhello\r\n" + END), 400),
    "chunk_size_plus": (chunked(b"+5\r\nhello\r\n" + END), 400),
    "chunk_size_minus": (chunked(b"-5\r\nhello\r\n" + END), 400),
    "chunk_size_0x": (chunked(b"0x5\r\nhello\r\n" + END), 400),
    "chunk_size_word": (chunked(b"G\r\nhello\r\n" + END), 400),
    "chunk_size_underscore": (chunked(b"1_0\r\nhellohellohello!\r\n" + END), 400),
    "chunk_size_space_before": (chunked(b" 5\r\nhello\r\n" + END), 400),
    "chunk_size_space_after": (chunked(b"5 \r\nhello\r\n" + END), 400),
    "chunk_size_tab_after": (chunked(b"5\t\r\nhello\r\n" + END), 400),
    "chunk_size_17_digits": (chunked(b"00000000000000005\r\nhello\r\n" + END), 400),
    "chunk_size_2_63": (chunked(b"8000000000000000\r\nhello\r\n" + END), 400),
    "chunk_size_2_64": (chunked(b"10000000000000005\r\nhello\r\n" + END), 400),
    "chunk_size_lf": (chunked(b"5\nhello\r\n" + END), 400),
    "chunk_size_cr": (chunked(b"5\rhello\r\n" + END), 400),
    "chunk_size_nul": (chunked(b"5\x00\r\nhello\r\n" + END), 400),
    "chunk_data_lf": (chunked(b"5\r\nhello\n" + END), 400),
    "chunk_data_cr": (chunked(b"5\r\nhello\r" + END), 400),
    "chunk_data_any_two_bytes": (chunked(b"5\r\nhelloXX" + END), 400),
    "chunk_data_longer": (chunked(b"5\r\nhello!\r\n" + END), 400),
    "chunk_data_shorter": (chunked(b"6\r\nhello\r\n" + END), 400),
    "chunk_data_no_end": (chunked(b"5\r\nhello0\r\n\r\n"), 400),
    "chunk_extension_space": (chunked(b"5 ;a=b\r\nhello\r\n" + END), 400),
    "chunk_extension_space_after": (chunked(b"5; a=b\r\nhello\r\n" + END), 400),
    "chunk_extension_lf": (chunked(b"5;a=b\nhello\r\n" + END), 400),
    "chunk_extension_hidden_line": (chunked(b"5;a\nXX\r\nhello\r\n" + END), 400),
    "chunk_extension_cr": (chunked(b"5;a\rb\r\nhello\r\n" + END), 400),
    "chunk_extension_no_name": (chunked(b"5;\r\nhello\r\n" + END), 400),
    "chunk_extension_no_value": (chunked(b"5;a=\r\nhello\r\n" + END), 400),
    "chunk_extension_open_quote": (chunked(b'5;a="b\r\nhello\r\n' + END), 400),
    "chunk_extension_quoted_crlf": (chunked(b'5;a="\r\n"\r\nhello\r\n' + END), 400),
    "chunk_extension_quoted_lf": (chunked(b'5;a="\n"\r\nhello\r\n' + END), 400),
    "chunk_extension_nul": (chunked(b"5;a=\x00\r\nhello\r\n" + END), 400),
    "chunk_extension_long": (chunked(b"5;" + b"a" * 5000 + b"\r\nhello\r\n" + END), 400),
    "chunk_extensions_together_long": (chunked((b"1;" + b"a" * 900 + b"\r\nx\r\n") * 6), 400),
    "last_chunk_lf": (chunked(b"0\n\r\n"), 400),
    "last_chunk_end_lf": (chunked(b"0\r\n\n"), 400),
    "last_chunk_then_garbage": (chunked(b"0\r\nX\r\n\r\n"), 400),
    "trailer_length": (chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "trailer_coding": (chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    "trailer_host": (chunked(b"0\r\nHost: b\r\n\r\n"), 400),
    "trailer_authorization": (chunked(b"0\r\nAuthorization: b\r\n\r\n"), 400),
    "trailer_folded": (chunked(b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    "trailer_bare_lf": (chunked(b"0\r\nA: b\nB: c\r\n\r\n"), 400),
    "trailer_bare_cr": (chunked(b"0\r\nA: b\rB: c\r\n\r\n"), 400),
    "trailer_nul": (chunked(b"0\r\nA: \x00\r\n\r\n"), 400),
    "trailer_space_before_colon": (chunked(b"0\r\nA : b\r\n\r\n"), 400),
    "trailers_too_long": (chunked(b"0\r\nA: " + b"b" * 40000 + b"\r\n\r\n"), 431),
    "trailers_too_many": (chunked(b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"), 431),
}

LINES = {
    "line_lf": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "line_only_lf": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "line_two_spaces": (line(b"GET  / HTTP/1.1"), 400),
    "line_two_spaces_later": (line(b"GET /  HTTP/1.1"), 400),
    "line_tab": (line(b"GET\t/ HTTP/1.1"), 400),
    "line_leading_space": (line(b" GET / HTTP/1.1"), 400),
    "line_trailing_space": (line(b"GET / HTTP/1.1 "), 400),
    "line_no_version": (line(b"GET /"), 400),
    "line_no_target": (line(b"GET HTTP/1.1"), 400),
    "line_empty_target": (line(b"GET  HTTP/1.1"), 400),
    "line_lower_version": (line(b"GET / http/1.1"), 400),
    "line_version_letters": (line(b"GET / HTTP/x.y"), 400),
    "line_version_long": (line(b"GET / HTTP/1.10"), 400),
    "line_version_short": (line(b"GET / HTTP/1"), 400),
    "line_version_0_9": (line(b"GET / HTTP/0.9"), 505),
    "line_version_1_2": (line(b"GET / HTTP/1.2"), 505),
    "line_version_2_0": (line(b"GET / HTTP/2.0"), 505),
    "line_http2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "line_method_colon": (line(b"GE:T / HTTP/1.1"), 400),
    "line_method_high_byte": (line(b"G\xc9T / HTTP/1.1"), 400),
    "line_method_long": (line(b"G" * 33 + b" / HTTP/1.1"), 400),
    "line_target_space": (line(b"GET /a b HTTP/1.1"), 400),
    "line_target_nul": (line(b"GET /a\x00b HTTP/1.1"), 400),
    "line_target_tab": (line(b"GET /a\tb HTTP/1.1"), 400),
    "line_target_high_byte": (line(b"GET /\xe9 HTTP/1.1"), 400),
    "line_target_delete": (line(b"GET /\x7f HTTP/1.1"), 400),
    "line_target_fragment": (line(b"GET /a#b HTTP/1.1"), 400),
    "line_target_relative": (line(b"GET a HTTP/1.1"), 400),
    "line_target_query_only": (line(b"GET ?a HTTP/1.1"), 400),
    "line_target_asterisk_get": (line(b"GET * HTTP/1.1"), 400),
    "line_target_authority_get": (line(b"GET a:80 HTTP/1.1"), 400),
    "line_target_other_scheme": (line(b"GET ftp://a/ HTTP/1.1"), 400),
    "line_target_user": (line(b"GET http://u@a/ HTTP/1.1"), 400),
    "line_target_no_host": (line(b"GET http:///x HTTP/1.1"), 400),
    "line_target_other_host": (line(b"GET http://b/ HTTP/1.1"), 400),
    "line_target_other_port": (line(b"GET http://a:81/ HTTP/1.1"), 400),
    "line_connect": (line(b"CONNECT a:80 HTTP/1.1"), 501),
    "line_cr": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "line_cr_cr_lf": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "line_tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "line_two_empty_lines": (b"\r\n\r\n" + line(b"GET / HTTP/1.1"), 400),
    "line_leading_lf": (b"\n" + line(b"GET / HTTP/1.1"), 400),
    "line_too_long": (line(b"GET /" + b"a" * 30000 + b" HTTP/1.1"), 414),
}

FIELDS = {
    "host_missing": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "host_empty": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host_twice": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "host_twice_differ": (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
    "host_list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "host_space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "host_user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host_path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host_port_word": (b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400),
    "host_port_large": (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
    "host_port_empty": (b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400),
    "host_percent": (b"GET / HTTP/1.1\r\nHost: a%00b\r\n\r\n", 400),
    "host_high_byte": (b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    "host_open_bracket": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "host_twice_in_http_1_0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "field_no_colon": (field(b"abc"), 400),
    "field_no_name": (field(b": abc"), 400),
    "field_space_in_name": (field(b"A b: c"), 400),
    "field_space_before_colon": (field(b"A : c"), 400),
    "field_folded_space": (field(b"A: b\r\n c"), 400),
    "field_folded_tab": (field(b"A: b\r\n\tc"), 400),
    "field_first_line_folded": (b"GET / HTTP/1.1\r\n A: b\r\nHost: a\r\n\r\n", 400),
    "field_nul": (field(b"A: b\x00c"), 400),
    "field_bell": (field(b"A: \x07"), 400),
    "field_delete": (field(b"A: \x7f"), 400),
    "field_escape": (field(b"A: \x1b[2J"), 400),
    "field_bare_cr": (field(b"A: b\rc"), 400),
    "field_bare_lf": (field(b"A: b\nC: d"), 400),
    "field_cr_cr_lf": (field(b"A: b\r"), 400),
    "field_name_parenthesis": (field(b"A(b): c"), 400),
    "field_name_at": (field(b"@: c"), 400),
    "field_name_high_byte": (field(b"\xc3\xa9: c"), 400),
    "field_name_nul": (field(b"A\x00: c"), 400),
    "field_name_bracket": (field(b"[A]: c"), 400),
    "field_expect_other": (field(b"Expect: 200-ok"), 417),
    "field_expect_twice": (field(b"Expect: 100-continue\r\nExpect: 100-continue"), 417),
    "fields_too_many": (field(b"\r\n".join([b"A: b"] * 120)), 431),
    "fields_too_long": (field(b"A: " + b"b" * 40000), 431),
    "fields_too_long_unfinished": (field(b"A: " + b"b" * 60000)[:-4], 431),
}

CASES = {**LENGTHS, **CODINGS, **CHUNKS, **LINES, **FIELDS}
