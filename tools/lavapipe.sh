#!/usr/bin/env bash
# A software Vulkan driver for tests, in a folder of its own: Mesa's lavapipe of Debian 13 backports, which has 16-bit
# floats and cooperative matrices, with the C library that it wants. Needs apt on Debian or a derivative; no root.
#
#   tools/lavapipe.sh FOLDER              fetches and unpacks it, 330 MB; does nothing where that is done
#   FOLDER/with COMMAND ...               runs a program with it, and with no other driver
#   FOLDER/checked COMMAND ...            the same under Vulkan's validation layer, whose messages go to FOLDER/messages
#
# The program is started by the loader of that C library, so it must not look for itself by its name, and
# programs that it starts do not see the driver.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(realpath "$1")
if [ -e "$folder/done" ]; then
    exit 0
fi

# Where this system's packages come from has the other releases too.
source=$(apt-get indextargets --format '$(CREATED_BY) $(REPO_URI)' | awk '$1 == "Packages" && $2 ~ /debian\/?$/ {print $2; exit}')
if [ -z "$source" ]; then
    echo "$0: apt has no Debian source" >&2
    exit 1
fi

# A package manager that knows nothing of this system: it has nothing installed, so it fetches all that the driver needs.
own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
mkdir -p "$own"/{lists,archives}/partial
touch "$own/status"
for release in trixie trixie-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $source $release main"
done >"$own/sources"
cat >"$own/apt.conf" <<CONF
Dir::Etc::SourceList "$own/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$own/lists";
Dir::State::Status "$own/status";
Dir::Cache::Archives "$own/archives";
Dir::Cache::PkgCache "";
Dir::Cache::SrcPkgCache "";
APT::Sandbox::User "";
APT::Get::Download-Only "true";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
APT::Default-Release "trixie-backports";
Debug::NoLocking "true";
CONF
export APT_CONFIG="$own/apt.conf"
apt-get -qq update
apt-get -qq install mesa-vulkan-drivers libvulkan1 vulkan-validationlayers >/dev/null

for package in "$own"/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
rm -rf "$folder/usr/share/doc" "$folder/usr/share/locale"

libraries=$(dirname "$(find "$folder" -name libvulkan_lvp.so | head -n 1)")
loader=$(find "$folder" -name 'ld-linux*.so.*' | head -n 1)
description=$(find "$folder" -name 'lvp_icd*.json' | head -n 1)
sed "s|\"library_path\": *\"[^\"]*\"|\"library_path\": \"$libraries/libvulkan_lvp.so\"|" "$description" >"$folder/driver.json"
cat >"$folder/with" <<WITH
#!/bin/sh
VK_DRIVER_FILES='$folder/driver.json'
export VK_DRIVER_FILES
exec '$loader' --library-path '$libraries' "\$@"
WITH
layers=$(dirname "$(find "$folder" -name 'VkLayer_khronos_validation.json' | head -n 1)")
cat >"$folder/checked" <<CHECKED
#!/bin/sh
export VK_LAYER_PATH='$layers' VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_LOG_FILENAME='$folder/messages'
exec '$folder/with' "\$@"
CHECKED
chmod +x "$folder/with" "$folder/checked"
touch "$folder/done"
