# The Python clients: ask for one token the way an application does, and print who it
# is for. LIBRARY takes azure-identity (with DEFAULT_CHAIN its DefaultAzureCredential,
# which names a user-assigned identity by AZURE_CLIENT_ID) or msrestazure.
import base64
import json
import os
import sys
import time

env = os.environ.get
resource = env("RESOURCE")


def azure_identity():
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

    if env("DEFAULT_CHAIN"):
        credential = DefaultAzureCredential()
    elif env("CLIENT_ID"):
        credential = ManagedIdentityCredential(client_id=env("CLIENT_ID"))
    elif env("OBJECT_ID"):
        credential = ManagedIdentityCredential(identity_config={"object_id": env("OBJECT_ID")})
    elif env("RESOURCE_ID"):
        credential = ManagedIdentityCredential(identity_config={"msi_res_id": env("RESOURCE_ID")})
    else:
        credential = ManagedIdentityCredential()
    token = credential.get_token(resource + "/.default")
    return token.token, token.expires_on


def msrestazure():
    from msrestazure.azure_active_directory import MSIAuthentication

    names = {"client_id": env("CLIENT_ID"), "object_id": env("OBJECT_ID"), "msi_res_id": env("RESOURCE_ID")}
    credentials = MSIAuthentication(resource=resource, **{k: v for k, v in names.items() if v})
    credentials.set_token()
    return credentials.token["access_token"], int(credentials.token["expires_on"])


def main():
    start = time.time()
    library = env("LIBRARY")
    token, expires = {"azure-identity": azure_identity, "msrestazure": msrestazure}[library]()
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    answer = {
        "client": library, "clientID": claims["appid"], "audience": claims["aud"],
        "milliseconds": int((time.time() - start) * 1000), "expiresIn": int(expires - time.time()),
    }
    if env("SHOW_TOKEN"):
        answer["token"] = token
    print(json.dumps(answer))


try:
    main()
except Exception as e:  # whatever the library raises is what the application would see
    print("%s: %s: %s" % (env("LIBRARY"), type(e).__name__, e), file=sys.stderr)
    sys.exit(1)
