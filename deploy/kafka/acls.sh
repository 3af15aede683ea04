#!/usr/bin/env bash
# Rights on a broker with ACLs, one principal for each role: only the learner and operators may write the control log.
# Run by an administrator, and again after a change; it adds rights, and takes none away.
#
#   BOOTSTRAP=broker:9093 ADMIN=admin.properties deploy/kafka/acls.sh
#
# Environment:
#   BOOTSTRAP   a broker
#   ADMIN       properties with which kafka-acls.sh, of a Kafka distribution and on the PATH, connects as administrator
#   MODEL       name of the model; default: default
#   SERVE, LEARN, INGEST, OPERATOR, PUBLISHER, MONITORING
#               principals; default: User:stream-ft-serve ... as in deploy/kubernetes/secrets.example.yaml
set -euo pipefail
: "${BOOTSTRAP:?a broker, host:port}" "${ADMIN:?properties of an administrator}"
model=${MODEL:-default}
prefix=stream_ft.$model

# allow PRINCIPAL "OPERATION ..." --topic NAME ... (or --group NAME ...)
allow() {
  local principal=$1 operation operations=()
  for operation in $2; do operations+=(--operation "$operation"); done
  kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN" --add \
    --allow-principal "$principal" "${operations[@]}" "${@:3}"
}

# topics KIND ...: their names as arguments
topics() { local kind; for kind; do printf -- '--topic %s.%s ' "$prefix" "$kind"; done; }

serve=${SERVE:-User:stream-ft-serve}
# What it answers and takes in over HTTP. It reads feedback and labels for GET /feedback.
allow "$serve" "Read Describe" $(topics control heads feedback labels)
allow "$serve" "Write Describe" $(topics predictions feedback labels acks)

learn=${LEARN:-User:stream-ft-learn}
# It makes the topics and checks how they are laid out. The group only shows how far it has read.
allow "$learn" "Read Describe DescribeConfigs Create" $(topics predictions feedback labels events control heads acks dlq)
allow "$learn" "Write" $(topics control heads dlq)
allow "$learn" "Read Describe" --group "$prefix.learn"

ingest=${INGEST:-User:stream-ft-ingest}
allow "$ingest" "Read Describe DescribeConfigs" $(topics predictions feedback labels)
allow "$ingest" "Write Describe DescribeConfigs" $(topics events dlq)
# The changes of its windowed tables.
allow "$ingest" "Read Write Create Describe DescribeConfigs" --topic "$prefix.ingest" --resource-pattern-type prefixed
allow "$ingest" "Read Describe" --group "$prefix.ingest"

# Who types stream-ft control, and looks at dead letters.
allow "${OPERATOR:-User:stream-ft-operator}" "Read Write Describe DescribeConfigs" $(topics control)
allow "${OPERATOR:-User:stream-ft-operator}" "Read Describe DescribeConfigs" $(topics predictions feedback labels events heads acks dlq)

# Applications that do not publish over HTTP.
allow "${PUBLISHER:-User:stream-ft-publisher}" "Write Describe" $(topics feedback labels)

# Whoever displays lag.
allow "${MONITORING:-User:stream-ft-monitoring}" "Describe" $(topics predictions feedback labels events)
allow "${MONITORING:-User:stream-ft-monitoring}" "Describe" --group "$prefix" --resource-pattern-type prefixed
