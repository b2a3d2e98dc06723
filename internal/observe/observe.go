// Package observe is how the daemons show themselves: logs, metrics, health and
// build information. Call sites hold no metric names and no formats; the
// vocabulary is here.
//
// Nothing secret passes through it: values that must not be read are Secrets,
// client ids are shortened by ShortID.
package observe
