#!/usr/bin/env bash
# Prints the path of the Chromium in which the tests open pages. Where there is none, it is installed if apt-get can do it
# without a password. It never fails: without a browser those tests are skipped.
set -uo pipefail

find_browser() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

install_browser() {
    command -v apt-get && as_root true || return
    echo "Installing Chromium for the tests of pages" >&2
    as_root apt-get -qq update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y install --no-install-recommends chromium fonts-noto-cjk
} >/dev/null </dev/null

find_browser || { install_browser && find_browser; } ||
    echo "The tests of pages will be skipped: no Chromium was found; install one, such as with: apt-get install chromium" >&2
exit 0
