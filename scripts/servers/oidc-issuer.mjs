// A real OpenID Connect issuer on loopback, for tests: node oidc-issuer.mjs SETTINGS.json
// SETTINGS.json: {"port", "certificate", "key" (PEM files), "audience", "keys" (JWKs with their private halves)}.
// It has a client `robot` with a secret (client credentials), a public client `cli` (code with PKCE)
// and an account for every name: the account's groups are the words behind `+` in the name (`alice+readers`).
// A signal SIGHUP has it read the settings again: so its keys are rotated.
// The module comes from the folder that OIDC_ISSUER names (default: .cache/oidc-issuer).
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const home = resolve(process.env.OIDC_ISSUER ?? '.cache/oidc-issuer', 'package.json');
const { Provider } = await import(createRequire(home).resolve('oidc-provider'));
const read = () => JSON.parse(readFileSync(process.argv[2]));
const { port, certificate, key } = read();

const groupsOf = (name) => (name ?? '').split('+').slice(1);

const resource = ({ audience, keys }) => ({
  enabled: true,
  defaultResource: () => audience,
  useGrantedResource: () => true,
  getResourceServerInfo: (_context, asked) => ({
    audience: asked,
    scope: 'gallery',
    accessTokenFormat: 'jwt',
    accessTokenTTL: 600,
    jwt: { sign: { alg: keys[0].alg } },
  }),
});

const provider = () => {
  const settings = read();
  return new Provider(`https://localhost:${port}`, {
    clients: [
      {
        client_id: 'robot', client_secret: 'a-secret-of-the-robot-in-the-tests', grant_types: ['client_credentials'],
        redirect_uris: [], response_types: [], token_endpoint_auth_method: 'client_secret_post',
      },
      {
        client_id: 'cli', token_endpoint_auth_method: 'none', application_type: 'native',
        grant_types: ['authorization_code'],
        redirect_uris: ['http://127.0.0.1/callback'], response_types: ['code'],
      },
    ],
    clientDefaults: { id_token_signed_response_alg: settings.keys[0].alg },
    jwks: { keys: settings.keys },
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: resource(settings),
      devInteractions: { enabled: true },
    },
    pkce: { required: () => true },
    scopes: ['openid', 'gallery'],
    findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (_context, token) => ({
      groups: token.accountId ? groupsOf(token.accountId) : ['robots'],
    }),
  });
};

let current = provider().callback();
process.on('SIGHUP', () => { current = provider().callback(); });
const options = { cert: readFileSync(certificate), key: readFileSync(key) };
https.createServer(options, (request, answer) => current(request, answer))
  .listen(port, '127.0.0.1', () => console.log('ready'));
